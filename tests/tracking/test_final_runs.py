"""MLflow runs of final training."""

from __future__ import annotations

from functools import partial

import pytest
from support import MLFLOW_WARNINGS

from experiments import BASELINES
from mnist_search.records import FinalResult, FinalTask
from mnist_search.tracking.final_runs import log_final

pytestmark = MLFLOW_WARNINGS

TASK = FinalTask(
    name="trial 3",
    seed=2,
    architecture=BASELINES["seed-001"].architecture,
    training=BASELINES["seed-001"].training,
    evaluate="every epoch",
)
CURVE = [
    {"epoch": epoch, "train_loss": 1 / epoch, "test_accuracy": 0.9 + epoch / 100, "timestamp": 1000 * epoch}
    for epoch in (1, 2, 3)
]
RESULT = FinalResult(test_accuracy=0.93, test_loss=0.2, curve=CURVE, version="1")


@pytest.fixture
def log(local, client):
    return partial(log_final, client, local[1], "final/u-1/1")


def test_final_run_is_logged_once_as_a_child_of_the_parent_run(local, client, log):
    tracker, config = local

    run_id = log(TASK, RESULT)

    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == config.parent_run_id
    assert run.data.metrics["num_params"] == 7204
    assert [m.value for m in client.get_metric_history(run_id, "test_accuracy")] == [0.91, 0.92, 0.93]
    assert (run.data.params["schedule"], run.data.params["final_seed"]) == ("plateau", "2")
    assert log(TASK, RESULT) == run_id
    another = FinalResult(test_accuracy=0.92, test_loss=0.2, curve=CURVE)
    assert log(TASK, another) != run_id
    assert tracker.tracked_runs() == []


def test_final_run_is_replaced_when_it_was_logged_only_in_part(client, log):
    partial = log(TASK, RESULT)
    client.update_run(partial, "RUNNING")

    complete = log(TASK, RESULT)

    assert complete != partial
    assert client.get_run(partial).info.lifecycle_stage == "deleted"


def test_final_run_of_a_diverged_training_is_failed(client, log):
    run = client.get_run(log(TASK, FinalResult(failure="diverged: loss nan at step 50")))

    assert (run.info.status, run.data.tags["reason"]) == ("FAILED", "diverged: loss nan at step 50")
    assert "test_accuracy" not in run.data.metrics
