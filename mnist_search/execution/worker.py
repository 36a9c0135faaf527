"""Worker: claim a trial, run it, finish or release it, until no trial is left.

python -m mnist_search.execution.worker CONNECTION
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import torch
from optuna import TrialPruned
from torch import AcceleratorError, OutOfMemoryError

from mnist_search.data.dataset import Split, load_split, load_train_and_test
from mnist_search.errors import MnistSearchError, first_line
from mnist_search.execution.config import ReadRecord, RunConfig
from mnist_search.execution.events import DeviceFailed, Message, Stop, TrialEnded, TrialEpoch, TrialStarted
from mnist_search.execution.runtime import Channel, LeaseThread, StoreThread, run_process
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
from mnist_search.storage.finals import FinalsStudy
from mnist_search.storage.queue import Claim, LostLease
from mnist_search.training.device import own_stream, select_compute_mode, use_one_thread
from mnist_search.training.steps import free_memory

WAIT_SECONDS = 2.0
"""Interval of checks whether another worker has released its trial."""

MAX_CONSECUTIVE_ERRORS = 3
"""Number of consecutive trials with an exception after which the cause is not a trial."""


class Worker:
    """The trials of one process, in one or more threads that share a device."""

    def __init__(self, config: RunConfig, channel: Channel, data: Split | None = None) -> None:
        self._config = config
        self._channel = channel
        self._device = torch.device(config.device)
        self._compute_mode = select_compute_mode(self._device, config.precision)
        self._study = config.open_study(Store.open(config.storage, write=True))
        self._read: ReadRecord = self._study.record
        self._data = data or load_data(config, self._device, self._study)
        self._store = StoreThread()
        self._leases = LeaseThread(self._study.queue.renew)
        self._lock = threading.Lock()
        self._n_threads = config.trial_threads
        self._is_ending = False
        self._n_interrupted = 0
        self._consecutive_errors = 0

    @property
    def _should_stop(self) -> bool:
        return self._is_ending or self._channel.should_stop

    @property
    def _may_claim(self) -> bool:
        return not self._should_stop and not self._channel.is_finishing

    def run(self) -> None:
        """Run trials until none is left, a stop condition is met or the supervisor requests a stop.

        Raises:
            OutOfMemoryError: the device has no memory for one trial.
        """
        self._warn_of_another_mode()
        try:
            for n_left in range(self._config.trials_alone, 0, -1):
                self._n_interrupted = n_left - 1
                if self._may_claim:
                    self._run_next(alone=True)
            self._n_interrupted = 0
            if self._n_threads == 1:
                self._run_trials()
            else:
                self._run_threads()
        except AcceleratorError as error:
            self._channel.send(DeviceFailed(first_line(error), self._n_interrupted))

    def _run_threads(self) -> None:
        n_threads = self._n_threads
        with ThreadPoolExecutor(n_threads, "trial") as threads:
            futures = [threads.submit(self._run_thread) for _ in range(n_threads)]
        errors = [error for future in futures if (error := future.exception())]
        if errors:
            raise next((error for error in errors if isinstance(error, AcceleratorError)), errors[0])

    def _run_thread(self) -> None:
        try:
            with own_stream(self._device):
                self._run_trials()
        except BaseException:
            self._is_ending = True
            raise

    def _run_trials(self) -> None:
        """Run one trial after the other, until none is left or the device has no memory for this thread's."""
        while self._may_claim:
            is_only_thread = self._n_threads == 1
            try:
                if self._run_next():
                    continue
            except OutOfMemoryError:
                if is_only_thread:
                    raise
            else:
                if self._end_thread() or not self._is_any_running():
                    return
                time.sleep(WAIT_SECONDS)
                continue
            free_memory()
            if self._end_thread():
                text = f"{self._device} has no memory for another trial; continuing with --jobs"
                self._channel.send(Message(f"{text} {self._n_threads}"))
                return

    def _end_thread(self) -> bool:
        """Whether this thread ends; the last one waits for trials that another worker may release."""
        with self._lock:
            is_last = self._n_threads == 1
            self._n_threads -= not is_last
        return not is_last

    def _is_any_running(self) -> bool:
        return any(trial.state == "RUNNING" for trial in self._store.call(self._read).trials)

    def _warn_of_another_mode(self) -> None:
        mode = device_and_mode(self._data.train, self._compute_mode)
        for trial in retry(self._read).trials:
            if trial.device and not trial.device.endswith(f", {self._compute_mode}"):
                text = f"trial {trial.number} was trained on {trial.device}, new trials on {mode}"
                self._channel.send(Message(f"{text}: results may differ; pass --precision to match"))
                return

    def _run_next(self, *, alone: bool = False) -> bool:
        """Claim and run a trial; False if there is none or a stop condition is met."""
        record = self._store.call(self._read)
        if isinstance(record, StudyRecord) and (reason := self._config.stop_conditions.reached(record)):
            self._is_ending = True
            self._channel.send(Stop(reason))
            return False
        claim = self._store.call(self._study.claim)
        if claim is not None:
            self._run_trial(claim, alone=alone)
        return claim is not None

    def _run_trial(self, claim: Claim, *, alone: bool) -> None:
        """Run one trial and finish it, or release it.

        A trial that fails the device has failed if it ran alone after a failure, and is released otherwise.
        """
        try:
            with self._leases.renewing(claim) as lost:
                context, reports = self._context(claim, lost)
                if isinstance(self._study, SearchStudy):
                    result = run_search_trial(claim.trial, self._study.config, self._data, context)
                else:
                    result = run_final_trial(claim.trial, self._data, context)
                for report in reports:
                    report.result()
                self._finish(claim, result)
        except LostLease as error:
            self._channel.send(Message(str(error)))
        except BaseException as error:
            if alone and isinstance(error, AcceleratorError):
                reason = f"error: {first_line(error)}"
                self._finish(claim, TrialResult(reason=reason, traceback=traceback.format_exc()))
                raise
            # Without a lease, another worker has the trial, or it was finished before the error.
            if self._release(claim) and not isinstance(error, Interrupted):
                raise
        else:
            self._stop_after_errors(result)

    def _context(self, claim: Claim, lost: threading.Event) -> tuple[TrialContext, deque[Future[None]]]:
        """What a trial calls, and its reports that are not known to be stored."""
        number = claim.trial.number
        reports: deque[Future[None]] = deque()
        started, timeout = time.monotonic(), self._config.stop_conditions.trial_timeout

        def checkpoint() -> None:
            while reports and reports[0].done():
                reports.popleft().result()
            if self._should_stop:
                raise Interrupted
            if lost.is_set():
                raise LostLease(f"the lease of trial {number} expired; another worker has the trial")
            if timeout is not None and time.monotonic() - started > timeout:
                raise TrialPruned(f"trial timeout of {timeout:g} s")

        def report(metrics: EpochMetrics) -> None:
            reports.append(self._store.submit(partial(self._study.queue.report, claim, metrics)))
            accuracy, speed = metrics.val_accuracy, metrics.samples_per_second
            self._channel.send(TrialEpoch(number, metrics.epoch, accuracy, speed))

        context = TrialContext(
            compute_mode=self._compute_mode,
            checkpoint=checkpoint,
            on_start=lambda num_params, epochs: self._channel.send(TrialStarted(number, num_params, epochs)),
            report=report,
            should_prune=partial(self._study.queue.should_prune, claim),
            store=self._store.call,
        )
        return context, reports

    def _finish(self, claim: Claim, result: TrialResult) -> None:
        finish = partial(self._study.queue.finish, claim, result.state, result.values)
        attributes = {"reason": result.reason, "traceback": result.traceback}
        keep = self._config.keep_models
        self._store.call(partial(finish, attributes=attributes, safetensors=result.safetensors, keep=keep))
        self._channel.send(TrialEnded(claim.trial.number, result.state.name, result.reason))

    def _release(self, claim: Claim) -> bool:
        """Release a trial; False if this worker has no lease of it."""
        try:
            self._store.call(partial(self._study.queue.release, claim))
        except LostLease as error:
            self._channel.send(Message(str(error)))
            return False
        self._n_interrupted += 1
        self._channel.send(TrialEnded(claim.trial.number, "WAITING"))
        return True

    def _stop_after_errors(self, result: TrialResult) -> None:
        self._consecutive_errors = self._consecutive_errors + 1 if result.traceback else 0
        if self._consecutive_errors == MAX_CONSECUTIVE_ERRORS:
            raise MnistSearchError(
                f"{MAX_CONSECUTIVE_ERRORS} consecutive trials failed (last: {result.reason}); "
                f"see mnist-search trials {self._config.study} and mnist-search explain"
            )


def load_data(
    config: RunConfig, device: torch.device | str, study: SearchStudy | FinalsStudy | None = None
) -> Split:
    """The images of a study: those of its split, or for finals those of the training and test set."""
    assert config.data_dir is not None
    study = study or config.open_study(Store.open(config.storage))
    if isinstance(study, SearchStudy):
        return load_split(config.data_dir, *study.config.split, device)
    return Split(*load_train_and_test(config.data_dir, torch.device(device)))


def run(config: RunConfig, channel: Channel, data: Split | None = None) -> None:
    """Run a worker on one core; MemoryError if the device has too little memory."""
    use_one_thread()
    try:
        retry(partial(Worker, config, channel, data)).run()
    except torch.OutOfMemoryError as error:
        raise MemoryError(str(error)) from error


if __name__ == "__main__":
    run_process(run)
