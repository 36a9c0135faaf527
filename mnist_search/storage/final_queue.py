"""A series: trainings of fixed networks with several seeds, each claimed by one worker and settled once.

It stands in the study store beside the studies, lives through the same deaths and resumes as they
do, and shares their leases and their place for weights.
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
from mnist_search.storage.database import Store, trainings

MAX_ATTEMPTS = 3
"""A training whose worker died this often is failed: it may be what kills them."""


@dataclass(frozen=True, slots=True)
class FinalTraining:
    """A task as the store has it.

    Attributes:
        result: None while it is not settled.
        run_id: of its MLflow run.
    """

    id: int
    task: FinalTask
    result: FinalResult | None
    run_id: str | None


@dataclass(frozen=True, slots=True)
class FinalClaim:
    """A training that this worker has begun; ``owner`` proves that it is still its own."""

    training: FinalTraining
    owner: str


class FinalQueue:
    """The trainings of one series.

    Attributes:
        name: tells series of a store apart.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self.name = name

    def add(self, tasks: Sequence[FinalTask]) -> None:
        """Add what is not there yet.

        Raises:
            StudyConflict: a task of that name and seed is there and is another one.
        """
        with self._store.lock("claim"):
            known = {(t.task.name, t.task.seed): t.task for t in self.trainings()}
            for task in tasks:
                if known.get((task.name, task.seed), task) != task:
                    raise StudyConflict(
                        f"{task.name} was trained in another way before; train it again with --again"
                    )
            new = [
                {"series": self.name, "name": t.name, "seed": t.seed, "task": t.to_json()}
                for t in tasks
                if (t.name, t.seed) not in known
            ]
            if new:
                with self._store.engine.begin() as connection:
                    connection.execute(sa.insert(trainings), new)

    def trainings(self) -> list[FinalTraining]:
        """Every training, in the order in which they were added."""
        mine = sa.select(trainings).where(trainings.c.series == self.name).order_by(trainings.c.id)
        with self._store.engine.connect() as connection:
            return [_final_training(row) for row in connection.execute(mine)]

    @property
    def open(self) -> list[FinalTraining]:
        """Trainings that are not settled."""
        return [training for training in self.trainings() if training.result is None]

    def claim(self) -> FinalClaim | None:
        """Begin the first training that nobody is at; None while there is none."""
        with self._store.lock("claim"):
            active = leases.active(self._store)
            for training in self.open:
                if -training.id not in active and self._may_begin(training):
                    claim = FinalClaim(training, uuid.uuid4().hex)
                    leases.write(self._store, -training.id, claim.owner)
                    return claim
        return None

    def _may_begin(self, training: FinalTraining) -> bool:
        """Count the death of a worker that left its lease; fail what has killed too many."""
        mine = trainings.c.id == training.id
        if not leases.exists(self._store, -training.id):
            return True
        with self._store.engine.begin() as connection:
            connection.execute(sa.update(trainings).where(mine).values(deaths=trainings.c.deaths + 1))
            deaths = connection.execute(sa.select(trainings.c.deaths).where(mine)).scalar_one()
        leases.drop(self._store, -training.id)
        if deaths < MAX_ATTEMPTS:
            return True
        self._write(training, FinalResult(failure=f"its worker crashed {deaths} times"))
        return False

    def renew(self, claim: FinalClaim) -> bool:
        """Say that this worker lives; whether the training is still its own."""
        return leases.renew(self._store, claim.owner)

    def release(self, claim: FinalClaim) -> None:
        """Leave a training to be begun again, as if it had not been."""
        with self._store.lock("claim"):
            if self.renew(claim):
                leases.drop(self._store, -claim.training.id)

    def finish(self, claim: FinalClaim, result: FinalResult, trained: bytes | None) -> bool:
        """End a training for ever, and keep its weights.

        Returns:
            False: it was given to another worker meanwhile, and nothing was changed.
        """
        with self._store.lock("claim"):
            if not self.renew(claim):
                return False
            key = -claim.training.id
            weights.write(self._store, key, self.name[:64], trained)
            self._write(claim.training, result)
            leases.drop(self._store, key)
            return True

    def _write(self, training: FinalTraining, result: FinalResult) -> None:
        values = {"result": json.dumps(asdict(result))}
        with self._store.engine.begin() as connection:
            connection.execute(sa.update(trainings).where(trainings.c.id == training.id).values(values))

    def record_run(self, training: FinalTraining, run_id: str) -> None:
        """Note the tracker's run of a training."""
        change = sa.update(trainings).where(trainings.c.id == training.id).values(run_id=run_id)
        with self._store.engine.begin() as connection:
            connection.execute(change)

    def weights_of(self, training: FinalTraining) -> bytes:
        """The trained weights as safetensors, checked against their sum.

        Raises:
            UnusableConfiguration: they are damaged or gone.
        """
        task = training.task
        return weights.of_trial(self._store, -training.id, f"{task.name}, seed {task.seed}")


def queue_names(store: Store, prefix: str) -> list[str]:
    """Names of the series that begin like this, oldest first; none in a store that never had one."""
    if not sa.inspect(store.engine).has_table(trainings.name):
        return []
    first = sa.func.min(trainings.c.id)
    names = sa.select(trainings.c.series).group_by(trainings.c.series).order_by(first)
    with store.engine.connect() as connection:
        return [name for name in connection.execute(names).scalars() if name.startswith(prefix)]


def _final_training(row: Any) -> FinalTraining:
    task = FinalTask.from_json(row.name, row.seed, row.task)
    result = FinalResult(**json.loads(row.result)) if row.result else None
    return FinalTraining(row.id, task, result, row.run_id)
