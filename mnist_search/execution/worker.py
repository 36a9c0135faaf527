"""Worker: claim a trial, run it, finish or release it, until no trial is left.

python -m mnist_search.execution.worker CONNECTION
"""

from __future__ import annotations

import threading
import time
from functools import partial

import torch
from optuna import TrialPruned

from mnist_search.data.dataset import Split, load_split, load_train_and_test
from mnist_search.errors import MnistSearchError
from mnist_search.execution.config import ReadRecord, RunConfig
from mnist_search.execution.events import Message, Stop, TrialEnded, TrialEpoch, TrialStarted
from mnist_search.execution.runtime import Channel, renewing_lease, run_process
from mnist_search.execution.trials import (
    Interrupted,
    TrialContext,
    TrialResult,
    device_and_mode,
    run_final_trial,
    run_search_trial,
)
from mnist_search.records import EpochMetrics, StudyRecord
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store, retry
from mnist_search.storage.queue import Claim, LostLease
from mnist_search.training.device import resolve_device, select_compute_mode, use_one_thread

WAIT_SECONDS = 2.0
"""Interval of checks whether another worker has released its trial."""

MAX_CONSECUTIVE_ERRORS = 3
"""Number of consecutive trials with an exception after which the cause is not a trial."""


class Worker:
    """The trials of one process."""

    def __init__(self, config: RunConfig, channel: Channel) -> None:
        self._config = config
        self._channel = channel
        device = resolve_device(config.device)
        self._compute_mode = select_compute_mode(device, config.precision)
        self._study = config.open_study(Store.open(config.storage, write=True))
        self._read: ReadRecord = self._study.record
        assert config.data_dir is not None
        if isinstance(self._study, SearchStudy):
            self._data = load_split(config.data_dir, *self._study.config.split, device)
        else:
            self._data = Split(*load_train_and_test(config.data_dir, device))
        self._consecutive_errors = 0

    def run(self) -> None:
        """Run trials until none is left, a stop condition is met or the supervisor requests a stop."""
        self._warn_of_another_mode()
        while not self._channel.should_stop:
            record = retry(self._read)
            if isinstance(record, StudyRecord) and (reason := self._config.stop_conditions.reached(record)):
                self._channel.send(Stop(reason))
                return
            claim = retry(self._study.claim)
            if claim is not None:
                self._run_trial(claim)
            elif any(trial.state == "RUNNING" for trial in retry(self._read).trials):
                time.sleep(WAIT_SECONDS)
            else:
                return

    def _warn_of_another_mode(self) -> None:
        mode = device_and_mode(self._data.train, self._compute_mode)
        for trial in retry(self._read).trials:
            if trial.device and not trial.device.endswith(f", {self._compute_mode}"):
                text = f"trial {trial.number} was trained on {trial.device}, new trials on {mode}"
                self._channel.send(Message(f"{text}: results may differ; pass --precision to match"))
                return

    def _run_trial(self, claim: Claim) -> None:
        """Run one trial and finish it, or release it."""
        try:
            with renewing_lease(partial(self._study.queue.renew, claim)) as lost:
                context = self._context(claim, lost)
                if isinstance(self._study, SearchStudy):
                    result = run_search_trial(claim.trial, self._study.config, self._data, context)
                else:
                    result = run_final_trial(claim.trial, self._data, context)
                self._finish(claim, result)
        except LostLease as error:
            self._channel.send(Message(str(error)))
        except BaseException as error:
            # Without a lease, another worker has the trial, or it was finished before the error.
            if self._release(claim) and not isinstance(error, Interrupted):
                raise
        else:
            self._stop_after_errors(result)

    def _context(self, claim: Claim, lost: threading.Event) -> TrialContext:
        number = claim.trial.number
        started, timeout = time.monotonic(), self._config.stop_conditions.trial_timeout

        def checkpoint() -> None:
            if self._channel.should_stop:
                raise Interrupted
            if lost.is_set():
                raise LostLease(f"the lease of trial {number} expired; another worker has the trial")
            if timeout is not None and time.monotonic() - started > timeout:
                raise TrialPruned(f"trial timeout of {timeout:g} s")

        def report(metrics: EpochMetrics) -> None:
            retry(partial(self._study.queue.report, claim, metrics))
            accuracy, speed = metrics.val_accuracy, metrics.samples_per_second
            self._channel.send(TrialEpoch(number, metrics.epoch, accuracy, speed))

        return TrialContext(
            compute_mode=self._compute_mode,
            checkpoint=checkpoint,
            on_start=lambda num_params, epochs: self._channel.send(TrialStarted(number, num_params, epochs)),
            report=report,
        )

    def _finish(self, claim: Claim, result: TrialResult) -> None:
        finish = partial(self._study.queue.finish, claim, result.state, result.values)
        attributes = {"reason": result.reason, "traceback": result.traceback}
        keep = self._config.keep_models
        retry(partial(finish, attributes=attributes, safetensors=result.safetensors, keep=keep))
        self._channel.send(TrialEnded(claim.trial.number, result.state.name, result.reason))

    def _release(self, claim: Claim) -> bool:
        """Release a trial; False if this worker has no lease of it."""
        try:
            retry(partial(self._study.queue.release, claim))
        except LostLease as error:
            self._channel.send(Message(str(error)))
            return False
        self._channel.send(TrialEnded(claim.trial.number, "WAITING"))
        return True

    def _stop_after_errors(self, result: TrialResult) -> None:
        self._consecutive_errors = self._consecutive_errors + 1 if result.traceback else 0
        if self._consecutive_errors == MAX_CONSECUTIVE_ERRORS:
            raise MnistSearchError(
                f"{MAX_CONSECUTIVE_ERRORS} consecutive trials failed (last: {result.reason}); "
                f"see mnist-search trials {self._config.study} and mnist-search explain"
            )


def run(config: RunConfig, channel: Channel) -> None:
    """Run a worker on one core; MemoryError if the device has too little memory."""
    use_one_thread()
    try:
        retry(partial(Worker, config, channel)).run()
    except torch.OutOfMemoryError as error:
        raise MemoryError(str(error)) from error


if __name__ == "__main__":
    run_process(run)
