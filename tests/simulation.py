"""A deterministic simulation of the trial queue: several workers over one real SQLite store.

Workers are generators. A seeded scheduler lets one of them do a step, crash, stall past its lease,
crash before or after a commit, or lose the acknowledgement of a commit. After each step the
invariants of the store are checked.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections import Counter
from dataclasses import dataclass, field

import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from experiments import StudyConfig
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store
from mnist_search.storage.leases import LEASE_TIMEOUT
from mnist_search.storage.queue import LostLease
from search_space import SearchSpace

N_WORKERS, N_TRIALS, EPOCHS, KEEP = 3, 6, 2, 2
MAX_STEPS = 2000
CONFIG = StudyConfig(
    budget=1500, space=SearchSpace.for_budget(1500, epochs=EPOCHS), sampler="random", pruner="none"
)


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
            if kind == "crash before a commit":
                self.rollback()
                raise Crash(kind)
            super().commit()
            if kind == "crash after a commit":
                raise Crash(kind)
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


REPORTS = "SELECT number FROM trials JOIN trial_intermediate_values USING (trial_id)"


def accuracy_of(number, epoch):
    return 0.9 + 0.001 * number + 0.01 * epoch


def worker(search_study):
    """The steps of a worker: claim, report epochs, finish; it yields between them."""
    queue = search_study.queue
    while True:
        claim = queue.claim(lambda trial: trial.suggest_float("x", 0, 1))
        yield
        if claim is None:
            if not any(t.state == TrialState.RUNNING for t in search_study.study.get_trials(deepcopy=False)):
                return
            continue
        try:
            claim.trial.set_user_attr("num_params", 1000)
            curve = []
            for epoch in range(1, EPOCHS + 1):
                yield
                if not queue.renew(claim):
                    break
                accuracy = accuracy_of(claim.trial.number, epoch)
                claim.trial.report(accuracy, epoch)
                curve.append({"epoch": epoch, "val_accuracy": accuracy, "val_loss": 0.1})
            else:
                yield
                queue.finish(
                    claim, TrialState.COMPLETE, curve[-1]["val_accuracy"],
                    attributes={"curve": curve}, safetensors=b"weights", keep=KEEP,
                )  # fmt: skip
        except LostLease:
            continue
        except Exception:
            try:
                queue.release(claim)
            except LostLease:  # another worker has the trial, or it is finished
                continue
            raise


@dataclass
class Simulation:
    """One seed of the simulation."""

    seed: int
    store: SimulatedStore
    history: list[str] = field(default_factory=list)
    finished: dict[int, list] = field(default_factory=dict)

    def run(self):
        """Run until the study is done; the invariants hold after each step."""
        rng = random.Random(self.seed)
        fault = CommitFault()
        self.store.inject(fault)
        names = Counter()
        workers, stalled_until = {}, {}
        for _ in range(MAX_STEPS):
            while len(workers) < N_WORKERS and not self._is_done():
                names["worker"] += 1
                workers[names["worker"]] = worker(self._open())
            if not workers:
                break
            self.store.seconds += rng.uniform(1, 20)
            name = rng.choice(sorted(workers))
            if stalled_until.get(name, 0) > self.store.seconds:
                continue
            action = rng.choices(
                [
                    "step",
                    "crash",
                    "stall",
                    "crash before a commit",
                    "crash after a commit",
                    "lost acknowledgement",
                ],
                [80, 4, 4, 4, 4, 4],
            )[0]
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
        self._check_end()

    def _open(self):
        return SearchStudy.open(self.store, "simulated")

    def _query(self, sql):
        with self.store.engine.connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(sql)]

    def _is_done(self):
        finished = "SELECT COUNT(*) FROM trials WHERE state NOT IN ('RUNNING', 'WAITING')"
        return self._query(finished) >= [(N_TRIALS,)]

    def _step(self, workers, name):
        try:
            next(workers[name])
        except StopIteration:
            del workers[name]
        except (Crash, SQLAlchemyError, StorageInternalError):
            del workers[name]

    def _check_invariants(self):
        trials = self._query(
            "SELECT number, state, value FROM trials LEFT JOIN trial_values USING (trial_id) ORDER BY number"
        )
        assert [number for number, *_ in trials] == list(range(len(trials)))
        assert sum(state != "WAITING" for _, state, _ in trials) <= N_TRIALS
        reports = Counter(number for (number,) in self._query(REPORTS))
        for number, *end in trials:
            if number in self.finished:
                assert self.finished[number] == end, "a finished trial changed"
            elif end[0] not in ("RUNNING", "WAITING"):
                self.finished[number] = end
            if end[0] == "COMPLETE":
                assert reports[number] == EPOCHS, "reports are missing"
                assert end[1] == accuracy_of(number, EPOCHS)

    def _check_end(self):
        record = self._open().record()
        assert len(record.done) == N_TRIALS
        assert {trial.state for trial in record.done} <= {"COMPLETE", "FAIL"}
        assert all(trial.is_finished or trial.state == "WAITING" for trial in record.trials)
        kept = set(self._open().queue.kept_weights())
        assert kept <= {trial.trial_id for trial in record.ranked[:KEEP]}
        with self.store.engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
            assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []


def make_template(folder):
    """A store with an empty study, to be copied for every seed."""
    path = folder / "template.db"
    store = Store.open_or_create(f"sqlite:///{path}")
    SearchStudy.open_or_create(store, "simulated", CONFIG, N_TRIALS)
    store.close()
    return path


def simulate(template, folder, seed):
    """Run one seed on a copy of the template."""
    path = folder / f"seed-{seed}.db"
    shutil.copy(template, path)
    store = SimulatedStore.open(f"sqlite:///{path}", write=True)
    simulation = Simulation(seed, store)
    try:
        simulation.run()
    except BaseException as error:
        error.add_note(f"simulation seed {seed}, last steps: {simulation.history[-20:]}")
        raise
    finally:
        store.close()
        for file in folder.glob(f"*seed-{seed}.db*"):
            file.unlink()
