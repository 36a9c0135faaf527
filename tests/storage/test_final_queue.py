"""Final queue: no task is lost or trained twice."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from experiments import BASELINES
from experiments.defaults import TRAINING
from mnist_search.errors import StudyConflict, UnusableConfiguration
from mnist_search.records import FinalResult, FinalTask
from mnist_search.storage import leases
from mnist_search.storage.final_queue import MAX_CRASHES, FinalQueue, queue_names
from mnist_search.storage.tables import leases as leases_table
from search_space.training_config import SGD, TrainingConfig

QUICK = TrainingConfig(epochs=2, batch_size=50, optimizer=SGD(0.05, nesterov=True))
SMALL = FinalTask(name="small", seed=0, architecture=BASELINES["seed-001"].architecture, training=QUICK)
WEIGHTS = b"trained"


@pytest.fixture
def queue(store):
    return FinalQueue(store, "final/uid/1")


def tasks(*names, seeds=2):
    return [replace(SMALL, name=name, seed=seed) for seed in range(seeds) for name in names]


def finish(queue, accuracy=0.99):
    while claim := queue.claim():
        assert queue.finish(claim, FinalResult(test_accuracy=accuracy), WEIGHTS)


def test_trainings_are_claimed_once_in_order(queue):
    queue.add(tasks("a", "b"))

    claimed = [queue.claim().training.task for _ in range(4)]

    assert [(task.name, task.seed) for task in claimed] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert claimed == tasks("a", "b")
    assert queue.claim() is None
    assert len(queue.open) == 4


def test_finished_training_keeps_its_result_and_weights(queue):
    queue.add(tasks("a", seeds=1))
    claim = queue.claim()

    assert queue.finish(claim, FinalResult(test_accuracy=0.99, curve=[{"epoch": 1}]), WEIGHTS)

    (training,) = queue.trainings()
    assert training.result.test_accuracy == 0.99
    assert queue.load_weights(training) == WEIGHTS
    assert queue.open == []
    assert queue.claim() is None


def test_released_training_is_claimed_again(queue):
    queue.add(tasks("a", seeds=1))
    queue.release(queue.claim())

    assert queue.claim().training.task.name == "a"


def test_worker_that_lost_its_lease_cannot_finish(queue, store):
    queue.add(tasks("a", seeds=1))
    stale = queue.claim()
    leases.drop(store, -stale.training.id)
    current = queue.claim()

    assert not queue.finish(stale, FinalResult(test_accuracy=0.1), b"stale")
    assert queue.finish(current, FinalResult(test_accuracy=0.9), b"current")
    assert queue.trainings()[0].result.test_accuracy == 0.9
    assert queue.load_weights(queue.trainings()[0]) == b"current"


def exited_process():
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    return process.pid


def test_training_fails_after_max_attempts(queue, store):
    queue.add(tasks("a", seeds=1))
    for _ in range(MAX_CRASHES):
        claim = queue.claim()
        with store.engine.begin() as connection:
            crash = leases_table.update().where(leases_table.c.trial_id == -claim.training.id)
            connection.execute(crash.values(pid=exited_process()))

    assert queue.claim() is None
    assert queue.trainings()[0].result.failure == "its worker crashed 3 times"


def test_add_ignores_stored_tasks(queue):
    queue.add(tasks("a"))
    finish(queue)
    queue.add(tasks("a", "b"))

    assert [training.task.name for training in queue.open] == ["b", "b"]


def test_add_raises_when_a_name_has_another_training(queue):
    queue.add(tasks("a"))

    with pytest.raises(StudyConflict, match="with another training configuration"):
        queue.add([replace(SMALL, name="a", training=TRAINING)])


def test_weights_of_raises_when_they_are_damaged(queue, store):
    queue.add(tasks("a", seeds=1))
    finish(queue)
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE mnist_search_weights SET safetensors = x'00'")

    with pytest.raises(UnusableConfiguration, match="damaged"):
        queue.load_weights(queue.trainings()[0])


def test_queues_are_separate(store):
    first, second = FinalQueue(store, "final/uid/1"), FinalQueue(store, "final/uid/2")
    first.add(tasks("a"))
    second.add(tasks("b"))

    assert {training.task.name for training in second.trainings()} == {"b"}
    assert queue_names(store, "final/uid/") == ["final/uid/1", "final/uid/2"]
    assert queue_names(store, "final/other/") == []
