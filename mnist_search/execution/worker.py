"""Worker: claim a trial, run it, finish or release it, until no trial is left.

python -m mnist_search.execution.worker CONNECTION
"""

from __future__ import annotations

import pickle
import threading
import time
from typing import Protocol

import torch

from mnist_search.data.dataset import Digits, load_split, load_train_and_test
from mnist_search.errors import MnistSearchError
from mnist_search.execution.config import StudyKind, WorkerConfig
from mnist_search.execution.events import Message, StopConditionReached, TrialEnded, TrialEpoch, TrialStarted
from mnist_search.execution.runtime import Channel, renewing_lease, run_process
from mnist_search.execution.trials import (
    Interrupted,
    TrialContext,
    TrialResult,
    TrialTimeout,
    device_and_mode,
    run_final_trial,
    run_search_trial,
)
from mnist_search.records import EpochMetrics, FinalTask, TrialRecord
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store, retry
from mnist_search.storage.finals import FinalsStudy
from mnist_search.storage.queue import Claim, LostLease, TrialQueue
from mnist_search.storage.studies import TASK_ATTR
from mnist_search.training.device import resolve_device, select_compute_mode, use_one_thread

WAIT_SECONDS = 2.0
"""Interval of checks whether another worker has released its trial."""

MAX_CONSECUTIVE_ERRORS = 3
"""Number of consecutive trials with an exception after which the cause is not a trial."""


class Trials(Protocol):
    """The trials of one study, of either kind.

    Attributes:
        train: training images, on the device.
        keep: number of trained networks to keep; None for all.
    """

    queue: TrialQueue
    train: Digits
    keep: int | None

    def __init__(self, store: Store, config: WorkerConfig, device: torch.device) -> None: ...

    def records(self) -> list[TrialRecord]:
        """Every trial, as stored now."""

    def stop_reason(self) -> str | None:
        """The stop condition that is met."""

    def claim(self) -> Claim | None:
        """Claim the next trial."""

    def run(self, claim: Claim, context: TrialContext) -> TrialResult:
        """Train a trial."""


class SearchTrials:
    """The trials of a search."""

    keep: int | None

    def __init__(self, store: Store, config: WorkerConfig, device: torch.device) -> None:
        sampler = pickle.loads(config.sampler) if config.sampler else None  # noqa: S301 - of the supervisor
        self._study = SearchStudy.open(store, config.study, config.supervisor, sampler)
        self._stop_conditions = config.stop_conditions
        self._data = load_split(config.data_dir, *self._study.config.split, device)
        self.queue, self.train, self.keep = self._study.queue, self._data.train, config.keep_models

    def records(self) -> list[TrialRecord]:
        """Every trial."""
        return list(self._study.record().trials)

    def stop_reason(self) -> str | None:
        """The stop condition that the stored trials meet."""
        return self._stop_conditions.reached(self._study.record())

    def claim(self) -> Claim | None:
        """Claim the next trial with every param suggested."""
        return self._study.claim()

    def run(self, claim: Claim, context: TrialContext) -> TrialResult:
        """Train a trial of the search."""
        return run_search_trial(claim.trial, self._study.config, self._data, context)


class FinalTrials:
    """Final trials; their weights are all kept."""

    keep: int | None = None

    def __init__(self, store: Store, config: WorkerConfig, device: torch.device) -> None:
        self._study = FinalsStudy.open(store, config.study, config.supervisor)
        self.train, self._test = load_train_and_test(config.data_dir, device)
        self.queue = self._study.queue

    def records(self) -> list[TrialRecord]:
        """Every trial."""
        return list(self._study.record().trials)

    def stop_reason(self) -> str | None:
        """Finals have no stop condition."""
        return None

    def claim(self) -> Claim | None:
        """Claim the next trial."""
        return self.queue.claim()

    def run(self, claim: Claim, context: TrialContext) -> TrialResult:
        """Train a final trial."""
        task = FinalTask.from_dict(claim.trial.user_attrs[TASK_ATTR])
        return run_final_trial(claim.trial, task, self.train, self._test, context)


class Worker:
    """The trials of one process."""

    def __init__(self, config: WorkerConfig, channel: Channel) -> None:
        self._config = config
        self._channel = channel
        device = resolve_device(config.device)
        self._compute_mode = select_compute_mode(device, config.precision)
        store = Store.open(config.storage, write=True)
        kinds: dict[StudyKind, type[Trials]] = {"search": SearchTrials, "finals": FinalTrials}
        self._trials = kinds[config.kind](store, config, device)
        self._consecutive_errors = 0

    def run(self) -> None:
        """Run trials until none is left, a stop condition is met or the supervisor requests a stop."""
        self._warn_of_another_mode()
        while not self._channel.should_stop:
            reason = retry(self._trials.stop_reason)
            if reason:
                self._channel.send(StopConditionReached(reason))
                return
            claim = retry(self._trials.claim)
            if claim is not None:
                self._run_trial(claim)
            elif any(trial.state == "RUNNING" for trial in retry(self._trials.records)):
                time.sleep(WAIT_SECONDS)
            else:
                return

    def _warn_of_another_mode(self) -> None:
        mode = device_and_mode(self._trials.train, self._compute_mode)
        for trial in self._trials.records():
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
        queue = self._trials.queue
        try:
            with renewing_lease(lambda: queue.renew(claim)) as lost:
                result = self._trials.run(claim, self._context(claim, lost))
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
        number, queue = claim.trial.number, self._trials.queue
        started, timeout = time.monotonic(), self._config.stop_conditions.trial_timeout

        def checkpoint() -> None:
            if self._channel.should_stop:
                raise Interrupted
            if lost.is_set():
                raise LostLease(f"the lease of trial {number} expired; another worker has the trial")
            if timeout is not None and time.monotonic() - started > timeout:
                raise TrialTimeout(f"trial timeout of {timeout:g} s")

        def on_start(num_params: int, epochs: int) -> None:
            self._channel.send(TrialStarted(number, num_params, epochs))

        def report(metrics: EpochMetrics) -> None:
            retry(lambda: queue.report(claim, metrics))
            accuracy, speed = metrics.val_accuracy, metrics.samples_per_second
            self._channel.send(TrialEpoch(number, metrics.epoch, accuracy, speed))

        return TrialContext(
            compute_mode=self._compute_mode, checkpoint=checkpoint, on_start=on_start, report=report
        )

    def _finish(self, claim: Claim, result: TrialResult) -> None:
        retry(
            lambda: self._trials.queue.finish(
                claim,
                result.state,
                result.values,
                attributes=result.attributes,
                safetensors=result.safetensors,
                keep=self._trials.keep,
            )
        )
        self._channel.send(TrialEnded(claim.trial.number, result.state.name, result.reason))

    def _release(self, claim: Claim) -> bool:
        """Release a trial; False if this worker has no lease of it."""
        try:
            self._trials.queue.release(claim)
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


def run(config: WorkerConfig, channel: Channel) -> None:
    """Run a worker on one core.

    Raises:
        MemoryError: the device has too little memory.
    """
    use_one_thread()
    try:
        Worker(config, channel).run()
    except torch.OutOfMemoryError as error:
        raise MemoryError(str(error)) from error


if __name__ == "__main__":
    run_process(run)
