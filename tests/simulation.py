"""A deterministic simulation of the trial queue: several workers over one real SQLite store.

Workers are generators. A seeded scheduler lets one of them do a step, crash, stall past its lease,
crash before or after a commit, or lose the connection or the acknowledgement of a commit. After each
step the invariants of the store are checked. A search and finals are simulated by the same code.
"""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from soundness import assert_store_is_sound
from sqlalchemy.exc import SQLAlchemyError

from experiments import BASELINES, StudyConfig
from experiments.defaults import TRAINING
from mnist_search.records import EpochMetrics, FinalsRecord, FinalTask
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store, is_unavailable
from mnist_search.storage.finals import FinalsStudy
from mnist_search.storage.leases import LEASE_TIMEOUT, ProcessIdentity
from mnist_search.storage.queue import LostLease
from search_space import SearchSpace

N_WORKERS, N_TRIALS, EPOCHS, KEEP = 3, 4, 2, 2
MAX_STEPS = 2000
CONFIG = StudyConfig(
    budget=1500, space=SearchSpace.for_budget(1500, epochs=EPOCHS), sampler="random", pruner="none"
)
TASKS = [
    FinalTask(name="small", seed=seed, architecture=BASELINES["seed-001"].architecture, training=TRAINING)
    for seed in range(N_TRIALS)
]

ACTIONS = {
    "step": 80,
    "crash": 4,
    "stall": 4,
    "crash before a commit": 4,
    "crash after a commit": 4,
    "lost acknowledgement": 3,
    "lost connection before a commit": 2,
    "lost connection after a commit": 2,
}
"""What a worker does next, with its weight."""


class Crash(BaseException):
    """The process ends here: no handler of the product runs."""


@dataclass
class CommitFault:
    """What happens at one of the next commits, or nothing."""

    kind: str = ""
    commits_left: int = 0

    def arm(self, kind, commits):
        self.kind, self.commits_left = kind, commits

    def due(self):
        if not self.kind:
            return ""
        self.commits_left -= 1
        if self.commits_left:
            return ""
        kind, self.kind = self.kind, ""
        return kind


def faulty_connection(fault):
    """A connection class whose commits can fail as ``fault`` says."""

    class FaultyConnection(sqlite3.Connection):
        def commit(self):
            kind = fault.due() if self.in_transaction else ""
            if kind.endswith("before a commit"):
                self.rollback()
            else:
                super().commit()
            if kind.startswith("crash"):
                raise Crash(kind)
            if kind.startswith("lost connection"):
                raise sqlite3.OperationalError(f"database is locked: {kind}")
            if kind == "lost acknowledgement":
                raise sqlite3.OperationalError(kind)

    return FaultyConnection


class SimulatedStore(Store):
    """A store whose clock the scheduler sets."""

    seconds = 1e9

    def now(self):
        return sa.cast(sa.literal(self.seconds), sa.Float)

    def inject(self, fault):
        connection_class = faulty_connection(fault)

        @sa.event.listens_for(self.engine, "do_connect")
        def _set_class(_dialect, _record, _args, parameters):
            parameters["factory"] = connection_class

        self.engine.dispose()


@dataclass(frozen=True)
class Scenario:
    """A study of one kind.

    Attributes:
        create: creates the study in a store.
        open: opens the study with the supervisor of its workers.
        propose: passed to ``claim``.
        keep: number of trials whose weights are kept; None for all.
        values: of a complete trial with a given accuracy.
    """

    create: Callable[[Store], Any]
    open: Callable[[Store, ProcessIdentity], SearchStudy | FinalsStudy]
    propose: Callable | None
    keep: int | None
    values: Callable[[float], list[float]]

    def metrics(self, number, epoch):
        accuracy = accuracy_of(number, epoch)
        is_search = self.propose is not None
        return EpochMetrics(
            epoch=epoch, train_accuracy=accuracy, val_accuracy=accuracy if is_search else None, val_loss=0.1
        )


SEARCH = Scenario(
    create=lambda store: SearchStudy.open_or_create(store, "simulated", CONFIG, N_TRIALS),
    open=lambda store, supervisor: SearchStudy.open(store, "simulated", supervisor),
    propose=lambda trial: trial.suggest_float("x", 0, 1),
    keep=KEEP,
    values=lambda accuracy: [accuracy],
)
FINALS = Scenario(
    create=lambda store: FinalsStudy.open_or_create(store, "simulated.finals").add(TASKS),
    open=lambda store, supervisor: FinalsStudy.open(store, "simulated.finals", supervisor),
    propose=None,
    keep=None,
    values=lambda accuracy: [accuracy, 0.1],
)


def accuracy_of(number, epoch):
    return 0.9 + 0.001 * number + 0.01 * epoch


def weights_of(number, attempt):
    return f"weights of {number} by {attempt}".encode()


def retried(action, *arguments, **options):
    """Call ``action`` as ``database.retry`` does, without waiting."""
    try:
        return action(*arguments, **options)
    except (SQLAlchemyError, StorageInternalError) as error:
        if not is_unavailable(error):
            raise
        return action(*arguments, **options)


def worker(scenario, study, acknowledged):
    """The steps of a worker: claim, report epochs, finish; it yields between them."""
    queue = study.queue
    while True:
        claim = retried(queue.claim, scenario.propose)
        yield
        if claim is None:
            if not any(t.state == TrialState.RUNNING for t in study.study.get_trials(deepcopy=False)):
                return
            continue
        try:
            number = claim.trial.number
            claim.trial.set_user_attr("num_params", 1000)
            for epoch in range(1, EPOCHS + 1):
                yield
                if not queue.renew(claim):
                    break
                retried(queue.report, claim, scenario.metrics(number, epoch))
            else:
                yield
                retried(
                    queue.finish, claim, TrialState.COMPLETE, scenario.values(accuracy_of(number, EPOCHS)),
                    safetensors=weights_of(number, claim.owner), keep=scenario.keep,
                )  # fmt: skip
                acknowledged[number] = claim.owner
        except LostLease:
            continue
        except Exception:
            try:
                queue.release(claim)
            except LostLease:  # another worker has the trial, or it is finished
                continue
            raise


@dataclass(frozen=True)
class StoredTrial:
    """A trial with everything that the store has of it."""

    number: int
    trial_id: int
    state: str
    accuracy: float | None
    attempt: str | None
    epochs: list[tuple]
    reports: int
    weights: bytes | None


TRIALS = """
SELECT number, trials.trial_id, state, v.value, a.value_json
FROM trials
LEFT JOIN trial_values v ON v.trial_id = trials.trial_id AND v.objective = 0
LEFT JOIN trial_user_attributes a ON a.trial_id = trials.trial_id AND a.key = 'attempt'
ORDER BY number
"""
EPOCH_ROWS = "SELECT trial_id, attempt, epoch, train_accuracy FROM mnist_search_epochs ORDER BY epoch"
REPORTS = "SELECT trial_id, COUNT(*) FROM trial_intermediate_values GROUP BY trial_id"
WEIGHTS = "SELECT trial_id, safetensors FROM mnist_search_weights"


def stored_trials(store):
    """Every trial of the store, by number."""
    with store.engine.connect() as connection:
        trials, epochs, reports, weights = (
            connection.exec_driver_sql(sql).all() for sql in (TRIALS, EPOCH_ROWS, REPORTS, WEIGHTS)
        )
    curves = defaultdict(list)
    for trial_id, *row in epochs:
        curves[trial_id].append(tuple(row))
    counts, kept = dict(map(tuple, reports)), dict(map(tuple, weights))
    assert kept.keys() <= {row.trial_id for row in trials}, "weights of no trial"
    return [
        StoredTrial(
            number, trial_id, state, accuracy, json.loads(attempt or "null"),
            curves.get(trial_id, []), counts.get(trial_id, 0), kept.get(trial_id),
        )
        for number, trial_id, state, accuracy, attempt in trials
    ]  # fmt: skip


@dataclass
class Simulation:
    """One seed of the simulation."""

    seed: int
    scenario: Scenario
    store: SimulatedStore
    history: list[str] = field(default_factory=list)
    finished: dict[int, StoredTrial] = field(default_factory=dict)
    acknowledged: dict[int, str] = field(default_factory=dict)

    def run(self):
        """Run until the study is done; the invariants hold after each step."""
        rng = random.Random(self.seed)
        fault = CommitFault()
        self.store.inject(fault)
        names = Counter()
        workers, stalled_until = {}, {}
        for _ in range(MAX_STEPS):
            while len(workers) < N_WORKERS and len(self.finished) < N_TRIALS:
                names["worker"] += 1
                workers[names["worker"]] = worker(self.scenario, self._open(), self.acknowledged)
            if not workers:
                break
            self.store.seconds += rng.uniform(1, 20)
            name = rng.choice(sorted(workers))
            if stalled_until.get(name, 0) > self.store.seconds:
                continue
            action = rng.choices(list(ACTIONS), list(ACTIONS.values()))[0]
            self.history.append(f"{action} {name}")
            if action == "crash":
                del workers[name]
            elif action == "stall":
                stalled_until[name] = self.store.seconds + 1.5 * LEASE_TIMEOUT
            else:
                if action != "step":
                    fault.arm(action, rng.randint(1, 8))
                self._step(workers, name)
                fault.kind = ""
            self._check_invariants()
        assert not workers, f"not done after {MAX_STEPS} steps"

    def _open(self):
        return self.scenario.open(self.store, ProcessIdentity.current())

    def _step(self, workers, name):
        try:
            next(workers[name])
        except StopIteration:
            del workers[name]
        except (Crash, SQLAlchemyError, StorageInternalError):
            del workers[name]

    def _check_invariants(self):
        trials = stored_trials(self.store)
        assert [trial.number for trial in trials] == list(range(len(trials)))
        assert sum(trial.state != "WAITING" for trial in trials) <= N_TRIALS
        for trial in trials:
            self._check_trial(trial)
        complete = [trial for trial in trials if trial.state == "COMPLETE"]  # of rising accuracy
        kept = complete if self.scenario.keep is None else complete[-self.scenario.keep :]
        assert [trial for trial in trials if trial.weights is not None] == kept
        for number, attempt in self.acknowledged.items():
            assert (trials[number].state, trials[number].attempt) == ("COMPLETE", attempt)

    def _check_trial(self, trial):
        assert {attempt for attempt, *_ in trial.epochs} <= {trial.attempt}, "epochs of an earlier attempt"
        if trial.state == "WAITING":
            assert (trial.epochs, trial.reports) == ([], 0)
        if trial.state == "COMPLETE":
            expected = [(epoch, accuracy_of(trial.number, epoch)) for epoch in range(1, EPOCHS + 1)]
            assert [tuple(row) for _, *row in trial.epochs] == expected, "not every epoch once"
            assert trial.reports == (EPOCHS if self.scenario.propose else 0)
            assert trial.accuracy == accuracy_of(trial.number, EPOCHS)
        if trial.weights is not None:
            assert trial.weights == weights_of(trial.number, trial.attempt), "weights of an earlier attempt"
        if trial.state in {"COMPLETE", "FAIL"}:
            before = self.finished.setdefault(trial.number, trial)
            assert replace(before, weights=None) == replace(trial, weights=None), "a finished trial changed"

    def check_end(self):
        """Check the study as the product reads it."""
        record = self._open().record()
        assert len(record.done) == N_TRIALS
        assert {trial.state for trial in record.done} <= {"COMPLETE", "FAIL"}
        if isinstance(record, FinalsRecord):
            assert [trial.task for trial in record.trials] == TASKS
            self._check_added_again(record)
        else:
            assert all(trial.is_finished or trial.state == "WAITING" for trial in record.trials)
            kept = set(self._open().queue.kept_weights())
            assert kept == {trial.trial_id for trial in record.ranked[:KEEP]}

    def _check_added_again(self, record):
        """A second command adds a trial for every failed one."""
        failed = [trial.task for trial in record.trials if trial.state == "FAIL"]
        study = self._open()
        study.add(TASKS)
        assert [trial.task for trial in study.record().trials] == TASKS + failed


def make_template(folder, scenario):
    """A store with a study without finished trials, to be copied for every seed."""
    path = folder / "template.db"
    store = Store.open_or_create(f"sqlite:///{path}")
    scenario.create(store)
    store.close()
    return path


def simulate(template, folder, scenario, seed):
    """Run one seed on a copy of the template."""
    database = f"seed-{seed}.db"
    shutil.copy(template, folder / database)
    store = SimulatedStore.open(f"sqlite:///{folder / database}", write=True)
    simulation = Simulation(seed, scenario, store)
    try:
        simulation.run()
        assert_store_is_sound(folder, database)
        simulation.check_end()
    except BaseException as error:
        error.add_note(f"simulation seed {seed}, last steps: {simulation.history[-20:]}")
        raise
    finally:
        store.close()
        for file in folder.glob(f"*{database}*"):
            file.unlink()
    return simulation
