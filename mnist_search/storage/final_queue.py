"""Queue of final training runs: each is claimed by one worker at a time and finished once.

Training runs of the same name and different seeds train one network. Leases and weights use the tables
of the trials, under ``-id``.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from mnist_search.errors import StudyConflict
from mnist_search.records import FinalResult, FinalTask
from mnist_search.storage import leases, weights
from mnist_search.storage.database import Store
from mnist_search.storage.queue import MAX_CRASHES
from mnist_search.storage.tables import trainings


@dataclass(frozen=True, slots=True)
class FinalTraining:
    """A stored task.

    Attributes:
        result: None until training has finished.
        run_id: of its MLflow run.
    """

    id: int
    task: FinalTask
    result: FinalResult | None
    run_id: str | None


@dataclass(frozen=True, slots=True)
class FinalClaim:
    """A claimed task; ``owner`` is the owner of its lease."""

    training: FinalTraining
    owner: str


class FinalQueue:
    """Claims, renews, finishes and releases the training runs of one queue.

    Attributes:
        name: unique in the store.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self.name = name

    def add(self, tasks: Sequence[FinalTask]) -> None:
        """Add the tasks that the queue does not have.

        Raises:
            StudyConflict: the queue has another task of that name and seed.
        """
        with self._store.lock("claim"):
            stored = {(t.task.name, t.task.seed): t.task for t in self.trainings()}
            for task in tasks:
                if stored.get((task.name, task.seed), task) != task:
                    raise StudyConflict(
                        f"the store has {task.name} with another training configuration; train it again with --again"
                    )
            new = [
                {"series": self.name, "name": t.name, "seed": t.seed, "task": t.to_json()}
                for t in tasks
                if (t.name, t.seed) not in stored
            ]
            if new:
                with self._store.engine.begin() as connection:
                    connection.execute(sa.insert(trainings), new)

    def trainings(self) -> list[FinalTraining]:
        """Every task, in insertion order."""
        rows = sa.select(trainings).where(trainings.c.series == self.name).order_by(trainings.c.id)
        with self._store.engine.connect() as connection:
            return [_final_training(row) for row in connection.execute(rows)]

    @property
    def open(self) -> list[FinalTraining]:
        """Tasks that have not finished."""
        return [training for training in self.trainings() if training.result is None]

    def claim(self) -> FinalClaim | None:
        """Claim the first training without an active lease; None if there is none."""
        with self._store.lock("claim"):
            active = leases.active(self._store)
            for training in self.open:
                if -training.id not in active and self._may_start(training):
                    claim = FinalClaim(training, uuid.uuid4().hex)
                    leases.write(self._store, -training.id, claim.owner)
                    return claim
        return None

    def _may_start(self, training: FinalTraining) -> bool:
        """Count the crash that left an expired lease; fail the task after MAX_CRASHES."""
        row = trainings.c.id == training.id
        if not leases.exists(self._store, -training.id):
            return True
        with self._store.engine.begin() as connection:
            connection.execute(sa.update(trainings).where(row).values(deaths=trainings.c.deaths + 1))
            crashes = connection.execute(sa.select(trainings.c.deaths).where(row)).scalar_one()
        leases.drop(self._store, -training.id)
        if crashes < MAX_CRASHES:
            return True
        self._write(training, FinalResult(failure=f"its worker crashed {crashes} times"))
        return False

    def renew(self, claim: FinalClaim) -> bool:
        """Renew the lease of a task; False if it is no longer this worker's."""
        return leases.renew(self._store, claim.owner)

    def release(self, claim: FinalClaim) -> None:
        """Requeue a task without its epochs."""
        with self._store.lock("claim"):
            if self.renew(claim):
                leases.drop(self._store, -claim.training.id)

    def finish(self, claim: FinalClaim, result: FinalResult, safetensors: bytes | None) -> bool:
        """Store the result and the weights of a task.

        Returns:
            False if the task is no longer this worker's; nothing was changed.
        """
        with self._store.lock("claim"):
            if not self.renew(claim):
                return False
            key = -claim.training.id
            weights.write(self._store, key, self.name[:64], safetensors)
            self._write(claim.training, result)
            leases.drop(self._store, key)
            return True

    def _write(self, training: FinalTraining, result: FinalResult) -> None:
        values = {"result": json.dumps(asdict(result))}
        with self._store.engine.begin() as connection:
            connection.execute(sa.update(trainings).where(trainings.c.id == training.id).values(values))

    def record_run(self, training: FinalTraining, run_id: str) -> None:
        """Record the MLflow run of a task."""
        change = sa.update(trainings).where(trainings.c.id == training.id).values(run_id=run_id)
        with self._store.engine.begin() as connection:
            connection.execute(change)

    def load_weights(self, training: FinalTraining) -> bytes:
        """The trained weights as safetensors.

        Raises:
            UnusableConfiguration: they are missing or do not match their digest.
        """
        task = training.task
        return weights.of_trial(self._store, -training.id, f"{task.name}, seed {task.seed}")


def queue_names(store: Store, prefix: str) -> list[str]:
    """Names of the final queues with this prefix, oldest first."""
    if not sa.inspect(store.engine).has_table(trainings.name):
        return []  # plain Optuna created the store
    first = sa.func.min(trainings.c.id)
    names = sa.select(trainings.c.series).group_by(trainings.c.series).order_by(first)
    with store.engine.connect() as connection:
        return [name for name in connection.execute(names).scalars() if name.startswith(prefix)]


def _final_training(row: Any) -> FinalTraining:
    task = FinalTask.from_json(row.name, row.seed, row.task)
    result = FinalResult(**json.loads(row.result)) if row.result else None
    return FinalTraining(row.id, task, result, row.run_id)
