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
from mnist_search.study.events import (
    LimitReached,
    Message,
    TrialBegan,
    TrialEnded,
    TrialEpoch,
)
from mnist_search.study.ledger import Claim, Ledger, LostLease
from mnist_search.study.limits import Limits
from mnist_search.study.mirror import Mirror
from mnist_search.study.process import Line, beating, serve
from mnist_search.study.samplers import trial_seed
from mnist_search.study.store import Store
from mnist_search.tracking import NullTracker, Tracker

if TYPE_CHECKING:
    from mnist_search.objective import Outcome
    from mnist_search.tracking.place import MlflowPlace
    from mnist_search.training.digits import Split
    from mnist_search.training.fit import EpochRecord
    from mnist_search.training.shared import SharedDigits

WAIT_SECONDS = 2.0
"""Between looks whether another worker's trial was left to be begun again."""

MOST_ERRORS = 3
"""Trials in a row that an exception failed, after which the fault is not theirs."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker process is told; travels by pickle.

    Attributes:
        digits: the training images; None to read them from ``data_dir``.
        mlflow: where runs are written; None for nowhere.
        keep_models: how many trained networks the study keeps.
    """

    storage: str
    study: str
    data_dir: Path
    digits: SharedDigits | None
    device: str
    precision: str
    mlflow: MlflowPlace | None
    keep_models: int
    limits: Limits = field(default_factory=Limits)


def main(job: Job, connection: Connection) -> None:
    """Entry of a worker process."""
    serve(connection, lambda line: Worker(job, line).work())


class Worker:
    """One process's part in a study."""

    def __init__(self, job: Job, line: Line) -> None:
        from mnist_search.training import device as devices
        from mnist_search.training.probe import fastest_way

        self._job = job
        self._line = line
        self._device = devices.resolve_device(job.device)
        self._way = fastest_way(self._device, job.precision)
        self._ledger = Ledger.open(Store.open(job.storage, write=True), job.study)
        experiment = self._ledger.experiment
        self._data = self._load(experiment.train_images, experiment.val_images, experiment.split_seed)
        self._tracker = self._make_tracker()
        val = cache(lambda: self._data.val.to(devices.CPU))
        self._mirror = Mirror(self._ledger, self._tracker, val)
        self._errors_in_a_row = 0

    def _load(self, train: int, val: int, seed: int) -> Split:
        from mnist_search.training.digits import load_split

        if self._job.digits is not None:
            return self._job.digits.split(train, val, self._device)
        return load_split(self._job.data_dir, train, val, seed, self._device)

    def _make_tracker(self) -> Tracker:
        if self._job.mlflow is None:
            return NullTracker()
        from mnist_search.tracking.mlflow_tracker import MlflowTracker  # 1 s to import

        warn = lambda text: self._line.tell(Message(text))  # noqa: E731
        return MlflowTracker(self._job.mlflow, self._job.study, warn)

    def work(self) -> None:
        """Run trials until none is left, a limit is reached or the supervisor says stop."""
        while not self._line.must_stop:
            reason = self._job.limits.reached(self._ledger.facts())
            if reason:
                self._line.tell(LimitReached(reason))
                return
            claim = self._ledger.claim()
            if claim is not None:
                self._run(claim)
            elif any(trial.state == "RUNNING" for trial in self._ledger.facts().trials):
                time.sleep(WAIT_SECONDS)
            else:
                return

    def _run(self, claim: Claim) -> None:
        """Run one trial and settle it, or put it back."""
        from mnist_search.objective import Interrupted, objective  # torch

        if claim.stale_run_id:
            self._tracker.discard_run(claim.stale_run_id)
        try:
            with beating(lambda: self._ledger.beat(claim)) as lost:
                outcome = objective(claim.trial, self._setup(claim, lost))
                self._settle(claim, outcome)
        except LostLease as error:
            self._line.tell(Message(str(error)))
        except BaseException as error:
            self._put_back(claim)
            if not isinstance(error, Interrupted):
                raise
        else:
            self._mirror_outcome(outcome)
            self._stop_after_errors(outcome)

    def _settle(self, claim: Claim, outcome: Outcome) -> None:
        self._ledger.settle(
            claim,
            outcome.state,
            outcome.value,
            left={"curve": outcome.curve, "reason": outcome.reason, "traceback": outcome.traceback},
            trained=outcome.trained,
            keep=self._job.keep_models,
        )
        number, state = claim.trial.number, outcome.state.name
        self._line.tell(TrialEnded(number, state, outcome.value, outcome.reason))

    def _put_back(self, claim: Claim) -> None:
        run_id = self._ledger.run_of(claim.trial_id)
        self._ledger.put_back(claim)
        if run_id:
            self._tracker.discard_run(run_id)
        self._line.tell(TrialEnded(claim.trial.number, "WAITING"))

    def _mirror_outcome(self, outcome: Outcome) -> None:
        outcome.run.end(outcome.ending)
        if outcome.state == TrialState.COMPLETE:
            self._mirror.models()
        self._tracker.update_study(self._ledger.facts())

    def _stop_after_errors(self, outcome: Outcome) -> None:
        self._errors_in_a_row = self._errors_in_a_row + 1 if outcome.traceback else 0
        if self._errors_in_a_row == MOST_ERRORS:
            raise MnistSearchError(
                f"{MOST_ERRORS} trials in a row failed, the last with {outcome.reason}; "
                f"see mnist-search trials {self._ledger.name} and mnist-search explain"
            )

    def _setup(self, claim: Claim, lost: threading.Event) -> Any:
        from mnist_search.objective import Interrupted, OutOfTime, Setup  # torch

        started, limit = time.monotonic(), self._job.limits.trial_timeout

        def checkpoint() -> None:
            if self._line.must_stop:
                raise Interrupted
            if lost.is_set():
                raise LostLease(f"trial {claim.trial.number} was given to another worker")
            if limit is not None and time.monotonic() - started > limit:
                raise OutOfTime(f"trial timeout of {limit:g} s")

        def on_begin(number: int, num_params: int, run_id: str | None) -> None:
            if run_id is not None:
                self._ledger.remember_mirror(claim.trial_id, run_id)
            self._line.tell(TrialBegan(number, num_params))

        def on_epoch(number: int, record: EpochRecord) -> None:
            accuracy = record.val_accuracy or 0.0
            self._line.tell(TrialEpoch(number, record.epoch, accuracy, record.samples_per_second))

        return Setup(
            experiment=self._ledger.experiment,
            data=self._data,
            device=self._device,
            way=self._way,
            tracker=self._tracker,
            seed_of=lambda number: trial_seed(self._ledger.experiment, number),
            checkpoint=checkpoint,
            on_begin=on_begin,
            on_epoch=on_epoch,
        )
