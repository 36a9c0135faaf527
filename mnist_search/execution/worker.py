"""Worker: claim a trial, run it, finish or release it, until no trial is left."""

from __future__ import annotations

import threading
import time
from functools import cache

import torch
from optuna.trial import TrialState

from mnist_search.data.dataset import load_split
from mnist_search.errors import MnistSearchError
from mnist_search.execution.config import FinalWorkerConfig, WorkerConfig
from mnist_search.execution.events import Message, StopConditionReached, TrialEnded, TrialEpoch, TrialStarted
from mnist_search.execution.final_worker import run_final_worker
from mnist_search.execution.runtime import Channel, renewing_lease
from mnist_search.execution.sync import TrackerSync, make_tracker
from mnist_search.execution.trials import (
    Interrupted,
    TrialContext,
    TrialResult,
    TrialTimeout,
    device_and_mode,
    run_search_trial,
)
from mnist_search.records import EpochMetrics
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store
from mnist_search.storage.queue import Claim, LostLease
from mnist_search.training.device import CPU, resolve_device, select_compute_mode, use_one_thread

WAIT_SECONDS = 2.0
"""Interval of checks whether another worker has released its trial."""

MAX_CONSECUTIVE_ERRORS = 3
"""Number of consecutive trials with an exception after which the cause is not a trial."""


def run(config: WorkerConfig | FinalWorkerConfig, channel: Channel) -> None:
    """Run a worker of either kind, on one core.

    Raises:
        MemoryError: the device has too little memory.
    """
    use_one_thread()
    try:
        if isinstance(config, WorkerConfig):
            Worker(config, channel).run()
        else:
            run_final_worker(config, channel)
    except torch.OutOfMemoryError as error:
        raise MemoryError(str(error)) from error


class Worker:
    """The trials of one process."""

    def __init__(self, config: WorkerConfig, channel: Channel) -> None:
        self._config = config
        self._channel = channel
        device = resolve_device(config.device)
        self._compute_mode = select_compute_mode(device, config.precision)
        self._search_study = SearchStudy.open(Store.open(config.storage, write=True), config.study)
        self._data = load_split(config.data_dir, *self._search_study.config.split, device)
        self._tracker = make_tracker(config.mlflow, config.study, lambda text: channel.send(Message(text)))
        self._sync = TrackerSync(self._search_study, self._tracker, cache(lambda: self._data.val.to(CPU)))
        self._consecutive_errors = 0

    def run(self) -> None:
        """Run trials until none is left, a stop condition is met or the supervisor requests a stop."""
        self._warn_of_another_mode()
        while not self._channel.should_stop:
            record = self._search_study.record()
            reason = self._config.stop_conditions.reached(record)
            if reason:
                self._channel.send(StopConditionReached(reason))
                return
            claim = self._search_study.claim()
            if claim is not None:
                self._run_trial(claim)
            elif any(trial.state == "RUNNING" for trial in self._search_study.record().trials):
                time.sleep(WAIT_SECONDS)
            else:
                return

    def _warn_of_another_mode(self) -> None:
        mode = device_and_mode(self._data.train, self._compute_mode)
        for trial in self._search_study.record().trials:
            if trial.device and not trial.device.endswith(f", {self._compute_mode}"):
                self._channel.send(
                    Message(
                        f"trial {trial.number} was trained on {trial.device}, new trials on {mode}: results "
                        "may differ; pass --precision to match"
                    )
                )
                return

    def _run_trial(self, claim: Claim) -> None:
        """Run one trial and finish it, or release it."""
        if claim.stale_run_id:
            self._tracker.delete_run(claim.stale_run_id)
        try:
            with renewing_lease(lambda: self._search_study.queue.renew(claim)) as lost:
                result = run_search_trial(claim.trial, self._context(claim, lost))
                self._finish(claim, result)
        except LostLease as error:
            self._channel.send(Message(str(error)))
        except BaseException as error:
            # Without a lease, another worker has the trial, or it was finished before the error.
            if self._release(claim) and not isinstance(error, Interrupted):
                raise
        else:
            self._log_end(result)
            self._stop_after_errors(result)

    def _context(self, claim: Claim, lost: threading.Event) -> TrialContext:
        started, timeout = time.monotonic(), self._config.stop_conditions.trial_timeout

        def checkpoint() -> None:
            if self._channel.should_stop:
                raise Interrupted
            if lost.is_set():
                raise LostLease(
                    f"the lease of trial {claim.trial.number} expired; another worker has the trial"
                )
            if timeout is not None and time.monotonic() - started > timeout:
                raise TrialTimeout(f"trial timeout of {timeout:g} s")

        def on_start(number: int, num_params: int, run_id: str | None) -> None:
            if run_id is not None:
                self._search_study.queue.record_run(claim.trial_id, run_id)
            self._channel.send(TrialStarted(number, num_params))

        def on_epoch(number: int, metrics: EpochMetrics) -> None:
            speed = metrics.samples_per_second
            self._channel.send(TrialEpoch(number, metrics.epoch, metrics.val_accuracy, speed))

        return TrialContext(
            config=self._search_study.config,
            data=self._data,
            compute_mode=self._compute_mode,
            tracker=self._tracker,
            checkpoint=checkpoint,
            on_start=on_start,
            on_epoch=on_epoch,
        )

    def _finish(self, claim: Claim, result: TrialResult) -> None:
        self._search_study.queue.finish(
            claim,
            result.state,
            result.value,
            attributes=result.attributes,
            safetensors=result.safetensors,
            keep=self._config.keep_models,
        )
        number, state = claim.trial.number, result.state.name
        self._channel.send(TrialEnded(number, state, result.value, result.reason))

    def _release(self, claim: Claim) -> bool:
        """Release a trial; False if this worker has no lease of it."""
        run_id = self._search_study.queue.run_of(claim.trial_id)
        try:
            self._search_study.queue.release(claim)
        except LostLease as error:
            self._channel.send(Message(str(error)))
            return False
        if run_id:
            self._tracker.delete_run(run_id)
        self._channel.send(TrialEnded(claim.trial.number, "WAITING"))
        return True

    def _log_end(self, result: TrialResult) -> None:
        result.run.end(result.end)
        if result.state == TrialState.COMPLETE:
            self._sync.sync_models()
        self._tracker.update_study(self._search_study.record())

    def _stop_after_errors(self, result: TrialResult) -> None:
        self._consecutive_errors = self._consecutive_errors + 1 if result.traceback else 0
        if self._consecutive_errors == MAX_CONSECUTIVE_ERRORS:
            raise MnistSearchError(
                f"{MAX_CONSECUTIVE_ERRORS} consecutive trials failed (last: {result.reason}); "
                f"see mnist-search trials {self._search_study.name} and mnist-search explain"
            )
