"""A series: trainings of fixed networks with several seeds, each claimed by one worker and settled once.

It stands in the study store beside the studies, lives through the same deaths and resumes as they
do, and shares their leases and their place for weights.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from mnist_search.errors import StudyConflict, UnusableConfiguration
from mnist_search.study import leases
from mnist_search.study.store import Store, trainings, weights
from mnist_search.tasks import Result, Task

MOST_DEATHS = 3
"""A training whose worker died this often is failed: it may be what kills them."""


@dataclass(frozen=True, slots=True)
class Training:
    """A task as the store has it.

    Attributes:
        result: None while it is not settled.
        run_id: of its MLflow run.
    """

    id: int
    task: Task
    result: Result | None
    run_id: str | None


@dataclass(frozen=True, slots=True)
class TrainingClaim:
    """A training that this worker has begun; ``owner`` proves that it is still its own."""

    training: Training
    owner: str


class Series:
    """The trainings of one series.

    Attributes:
        name: tells series of a store apart.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self.name = name

    def add(self, tasks: Sequence[Task]) -> None:
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

    def trainings(self) -> list[Training]:
        """Every training, in the order in which they were added."""
        mine = sa.select(trainings).where(trainings.c.series == self.name).order_by(trainings.c.id)
        with self._store.engine.connect() as connection:
            return [_training(row) for row in connection.execute(mine)]

    @property
    def open(self) -> list[Training]:
        """Trainings that are not settled."""
        return [training for training in self.trainings() if training.result is None]

    def claim(self) -> TrainingClaim | None:
        """Begin the first training that nobody is at; None while there is none."""
        with self._store.lock("claim"):
            held = leases.held(self._store)
            for training in self.open:
                if -training.id not in held and self._may_begin(training):
                    claim = TrainingClaim(training, uuid.uuid4().hex)
                    leases.write(self._store, -training.id, claim.owner)
                    return claim
        return None

    def _may_begin(self, training: Training) -> bool:
        """Count the death of a worker that left its lease; fail what has killed too many."""
        mine = trainings.c.id == training.id
        if not leases.exists(self._store, -training.id):
            return True
        with self._store.engine.begin() as connection:
            connection.execute(sa.update(trainings).where(mine).values(deaths=trainings.c.deaths + 1))
            deaths = connection.execute(sa.select(trainings.c.deaths).where(mine)).scalar_one()
        leases.drop(self._store, -training.id)
        if deaths < MOST_DEATHS:
            return True
        self._write(training, Result(failure=f"its worker died {deaths} times"))
        return False

    def beat(self, claim: TrainingClaim) -> bool:
        """Say that this worker lives; whether the training is still its own."""
        return leases.beat(self._store, claim.owner)

    def put_back(self, claim: TrainingClaim) -> None:
        """Leave a training to be begun again, as if it had not been."""
        with self._store.lock("claim"):
            if self.beat(claim):
                leases.drop(self._store, -claim.training.id)

    def settle(self, claim: TrainingClaim, result: Result, trained: bytes | None) -> bool:
        """End a training for ever, and keep its weights.

        Returns:
            False: it was given to another worker meanwhile, and nothing was changed.
        """
        with self._store.lock("claim"):
            if not self.beat(claim):
                return False
            key = -claim.training.id
            with self._store.engine.begin() as connection:
                connection.execute(sa.delete(weights).where(weights.c.trial_id == key))
                if trained is not None:
                    connection.execute(sa.insert(weights).values(self._weights_row(key, trained)))
            self._write(claim.training, result)
            leases.drop(self._store, key)
            return True

    def _weights_row(self, key: int, trained: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(trained).hexdigest()
        return {"trial_id": key, "study_uid": self.name[:64], "sha256": digest, "safetensors": trained}

    def _write(self, training: Training, result: Result) -> None:
        values = {"result": json.dumps(asdict(result))}
        with self._store.engine.begin() as connection:
            connection.execute(sa.update(trainings).where(trainings.c.id == training.id).values(values))

    def remember_run(self, training: Training, run_id: str) -> None:
        """Note the tracker's run of a training."""
        change = sa.update(trainings).where(trainings.c.id == training.id).values(run_id=run_id)
        with self._store.engine.begin() as connection:
            connection.execute(change)

    def weights_of(self, training: Training) -> bytes:
        """The trained weights as safetensors, checked against their sum.

        Raises:
            UnusableConfiguration: they are damaged or gone.
        """
        mine = sa.select(weights).where(weights.c.trial_id == -training.id)
        with self._store.engine.connect() as connection:
            row = connection.execute(mine).first()
        if row is None or hashlib.sha256(row.safetensors).hexdigest() != row.sha256:
            raise UnusableConfiguration(
                f"the weights of {training.task.name}, seed {training.task.seed}, in {self._store} are "
                "damaged; restore the store from a copy"
            )
        return bytes(row.safetensors)


def series_of(store: Store, prefix: str) -> list[str]:
    """Names of the series that begin like this, oldest first; none in a store that never had one."""
    if not sa.inspect(store.engine).has_table(trainings.name):
        return []
    first = sa.func.min(trainings.c.id)
    names = sa.select(trainings.c.series).group_by(trainings.c.series).order_by(first)
    with store.engine.connect() as connection:
        return [name for name in connection.execute(names).scalars() if name.startswith(prefix)]


def _training(row: Any) -> Training:
    task = Task.from_json(row.name, row.seed, row.task)
    result = Result(**json.loads(row.result)) if row.result else None
    return Training(row.id, task, result, row.run_id)
