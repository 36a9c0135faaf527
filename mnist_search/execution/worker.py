"""A worker: claims trials of a study and runs them, one after the other, until none is left."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

from mnist_search.errors import MnistSearchError
from mnist_search.execution.events import (
    Message,
    StopConditionReached,
    TrialBegan,
    TrialEnded,
    TrialEpoch,
)
from mnist_search.execution.runtime import Channel, renewing_lease, serve
from mnist_search.execution.sync import TrackerSync
from mnist_search.search.samplers import trial_seed
from mnist_search.search.stopping import StopConditions
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store
from mnist_search.storage.queue import Claim, LostLease
from mnist_search.tracking.base import NullTracker, Tracker

if TYPE_CHECKING:
    from mnist_search.data.dataset import Split
    from mnist_search.execution.trials import TrialResult
    from mnist_search.tracking.config import TrackingConfig
    from mnist_search.training.device import PrecisionChoice
    from mnist_search.training.fit import EpochRecord

WAIT_SECONDS = 2.0
"""Between looks whether another worker's trial was left to be begun again."""

MAX_CONSECUTIVE_ERRORS = 3
"""Trials in a row that an exception failed, after which the fault is not theirs."""


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """What a worker process is told; travels by pickle.

    Attributes:
        mlflow: where runs are written; None for nowhere.
        keep_models: how many trained networks the study keeps.
    """

    storage: str
    study: str
    data_dir: Path
    device: str
    precision: PrecisionChoice
    mlflow: TrackingConfig | None
    keep_models: int
    limits: StopConditions = field(default_factory=StopConditions)


def main(worker_config: WorkerConfig, connection: Connection) -> None:
    """Entry of a worker process."""
    serve(connection, lambda channel: Worker(worker_config, channel).work())


class Worker:
    """One process's part in a study."""

    def __init__(self, worker_config: WorkerConfig, channel: Channel) -> None:
        from mnist_search.training import device as devices
        from mnist_search.training.device import select_compute_mode

        self._config = worker_config
        self._channel = channel
        self._device = devices.resolve_device(worker_config.device)
        self._compute_mode = select_compute_mode(self._device, worker_config.precision)
        self._search_study = SearchStudy.open(
            Store.open(worker_config.storage, write=True), worker_config.study
        )
        experiment = self._search_study.config
        self._data = self._load(experiment.train_images, experiment.val_images, experiment.split_seed)
        self._tracker = self._make_tracker()
        val = cache(lambda: self._data.val.to(devices.CPU))
        self._mirror = TrackerSync(self._search_study, self._tracker, val)
        self._errors_in_a_row = 0

    def _load(self, train: int, val: int, seed: int) -> Split:
        from mnist_search.data.dataset import load_split

        return load_split(self._config.data_dir, train, val, seed, self._device)

    def _make_tracker(self) -> Tracker:
        if self._config.mlflow is None:
            return NullTracker()
        from mnist_search.tracking.mlflow_tracker import MlflowTracker  # 1 s to import

        warn = lambda text: self._channel.send(Message(text))  # noqa: E731
        return MlflowTracker(self._config.mlflow, self._config.study, warn)

    def work(self) -> None:
        """Run trials until none is left, a limit is reached or the supervisor says stop."""
        while not self._channel.should_stop:
            reason = self._config.limits.reached(self._search_study.record())
            if reason:
                self._channel.send(StopConditionReached(reason))
                return
            claim = self._search_study.claim()
            if claim is not None:
                self._run(claim)
            elif any(trial.state == "RUNNING" for trial in self._search_study.record().trials):
                time.sleep(WAIT_SECONDS)
            else:
                return

    def _run(self, claim: Claim) -> None:
        """Run one trial and settle it, or put it back."""
        from mnist_search.execution.trials import Interrupted, run_search_trial  # torch

        if claim.stale_run_id:
            self._tracker.delete_run(claim.stale_run_id)
        try:
            with renewing_lease(lambda: self._search_study.queue.renew(claim)) as lost:
                outcome = run_search_trial(claim.trial, self._setup(claim, lost))
                self._finish(claim, outcome)
        except LostLease as error:
            self._channel.send(Message(str(error)))
        except BaseException as error:
            self._release(claim)
            if not isinstance(error, Interrupted):
                raise
        else:
            self._mirror_outcome(outcome)
            self._stop_after_errors(outcome)

    def _finish(self, claim: Claim, outcome: TrialResult) -> None:
        self._search_study.queue.finish(
            claim,
            outcome.state,
            outcome.value,
            attributes={"curve": outcome.curve, "reason": outcome.reason, "traceback": outcome.traceback},
            safetensors=outcome.trained,
            keep=self._config.keep_models,
        )
        number, state = claim.trial.number, outcome.state.name
        self._channel.send(TrialEnded(number, state, outcome.value, outcome.reason))

    def _release(self, claim: Claim) -> None:
        run_id = self._search_study.queue.run_of(claim.trial_id)
        self._search_study.queue.release(claim)
        if run_id:
            self._tracker.delete_run(run_id)
        self._channel.send(TrialEnded(claim.trial.number, "WAITING"))

    def _mirror_outcome(self, outcome: TrialResult) -> None:
        outcome.run.end(outcome.ending)
        if outcome.state == TrialState.COMPLETE:
            self._mirror.models()
        self._tracker.update_study(self._search_study.record())

    def _stop_after_errors(self, outcome: TrialResult) -> None:
        self._errors_in_a_row = self._errors_in_a_row + 1 if outcome.traceback else 0
        if self._errors_in_a_row == MAX_CONSECUTIVE_ERRORS:
            raise MnistSearchError(
                f"{MAX_CONSECUTIVE_ERRORS} trials in a row failed, the last with {outcome.reason}; "
                f"see mnist-search trials {self._search_study.name} and mnist-search explain"
            )

    def _setup(self, claim: Claim, lost: threading.Event) -> Any:
        from mnist_search.execution.trials import Interrupted, OutOfTime, TrialContext  # torch

        started, limit = time.monotonic(), self._config.limits.trial_timeout

        def checkpoint() -> None:
            if self._channel.should_stop:
                raise Interrupted
            if lost.is_set():
                raise LostLease(f"trial {claim.trial.number} was given to another worker")
            if limit is not None and time.monotonic() - started > limit:
                raise OutOfTime(f"trial timeout of {limit:g} s")

        def on_begin(number: int, num_params: int, run_id: str | None) -> None:
            if run_id is not None:
                self._search_study.queue.record_run(claim.trial_id, run_id)
            self._channel.send(TrialBegan(number, num_params))

        def on_epoch(number: int, record: EpochRecord) -> None:
            accuracy = record.val_accuracy or 0.0
            self._channel.send(TrialEpoch(number, record.epoch, accuracy, record.samples_per_second))

        return TrialContext(
            config=self._search_study.config,
            data=self._data,
            device=self._device,
            compute_mode=self._compute_mode,
            tracker=self._tracker,
            seed_of=lambda number: trial_seed(self._search_study.config, number),
            checkpoint=checkpoint,
            on_begin=on_begin,
            on_epoch=on_epoch,
        )
