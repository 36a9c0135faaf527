"""A final task on one split."""

from __future__ import annotations

from dataclasses import replace

import pytest

from experiments import BASELINES
from mnist_search.execution.trials import run_final_trial
from mnist_search.records import FinalTask
from mnist_search.training.device import ComputeMode
from mnist_search.training.evaluate import evaluate
from mnist_search.training.model import load_network
from search_space.training_config import SGD, Plateau, TrainingConfig

TRAINING = TrainingConfig(epochs=2, batch_size=50, optimizer=SGD(0.05, nesterov=True))
TASK = FinalTask(name="a", seed=0, architecture=BASELINES["seed-001"].architecture, training=TRAINING)


@pytest.mark.parametrize("mode", ["once", "every epoch"])
def test_final_weights_are_those_of_the_last_epoch(small_split, mode):
    result, weights = run_final_trial(
        replace(TASK, evaluate=mode), small_split.train, small_split.val, ComputeMode()
    )

    evaluation = evaluate(load_network(TASK.architecture, weights), small_split.val)
    assert evaluation.accuracy == result.test_accuracy
    assert evaluation.loss == pytest.approx(result.test_loss)
    assert [epoch["epoch"] for epoch in result.curve] == [1, 2]
    assert all(("test_accuracy" in epoch) is (mode == "every epoch") for epoch in result.curve)
    assert not any("val_accuracy" in epoch for epoch in result.curve)


def test_test_set_does_not_influence_a_final_training(small_split):
    task = replace(TASK, training=replace(TRAINING, epochs=3, schedule=Plateau(patience=0)))

    first, weights = run_final_trial(task, small_split.train, small_split.val, ComputeMode())
    second, same_weights = run_final_trial(task, small_split.train, small_split.val[:100], ComputeMode())

    assert weights == same_weights
    assert first.test_accuracy != second.test_accuracy


def test_diverged_final_training_has_a_failure(small_split):
    task = replace(TASK, training=replace(TRAINING, optimizer=SGD(1e30)))

    result, weights = run_final_trial(task, small_split.train, small_split.val, ComputeMode())

    assert result.failure.startswith("diverged: loss")
    assert (result.test_accuracy, weights) == (None, None)
