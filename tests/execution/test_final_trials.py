"""run_final_trial, on one split."""

from __future__ import annotations

from dataclasses import replace

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from experiments import BASELINES
from mnist_search.data.dataset import Split
from mnist_search.execution.trials import TrialContext, run_final_trial
from mnist_search.records import FinalTask
from mnist_search.storage.studies import TASK_ATTR
from mnist_search.training.device import ComputeMode
from mnist_search.training.evaluate import evaluate
from mnist_search.training.fit import fit
from mnist_search.training.model import build, load_network
from search_space.training_config import SGD, Plateau, TrainingConfig

TRAINING = TrainingConfig(epochs=2, batch_size=50, optimizer=SGD(0.05, nesterov=True))
TASK = FinalTask(name="a", seed=0, architecture=BASELINES["seed-001"].architecture, training=TRAINING)


@pytest.fixture
def run(small_split):
    """Run a final trial, evaluated on the first validation images; its result and epochs."""

    def call(task, n_test=500):
        epochs = []
        context = TrialContext(
            compute_mode=ComputeMode(),
            checkpoint=lambda: None,
            on_start=lambda *_: None,
            report=epochs.append,
            should_prune=lambda: False,
            store=lambda function: function(),
        )
        study = optuna.create_study(directions=["maximize", "minimize"])
        study.add_trial(create_trial(state=TrialState.WAITING, user_attrs={TASK_ATTR: task.to_dict()}))
        split = Split(small_split.train, small_split.val[:n_test])
        return run_final_trial(study.ask(), split, context), epochs

    return call


@pytest.mark.parametrize("mode", ["once", "every epoch"])
def test_final_weights_are_those_of_the_last_epoch(run, small_split, mode):
    result, epochs = run(replace(TASK, evaluate=mode))

    evaluation = evaluate(load_network(TASK.architecture, result.safetensors), small_split.val)
    accuracy, loss = result.values
    assert result.state == TrialState.COMPLETE
    assert accuracy == evaluation.accuracy
    assert loss == pytest.approx(evaluation.loss)
    assert [metrics.epoch for metrics in epochs] == [1, 2]
    assert all((metrics.val_accuracy is not None) is (mode == "every epoch") for metrics in epochs)


def test_test_set_does_not_influence_a_final_training(run):
    task = replace(TASK, training=replace(TRAINING, epochs=3, schedule=Plateau(patience=0)))

    first, _ = run(task)
    second, _ = run(task, n_test=100)

    assert first.safetensors == second.safetensors
    assert first.values != second.values


def test_repeated_training_uses_the_split_and_not_the_test_images(run, small_split):
    task = replace(TASK, split=(800, 150, 3))
    split = Split.of(small_split.train, *task.split)

    result, epochs = run(task)
    other, _ = run(task, n_test=100)

    assert result.values == other.values
    assert result.safetensors is None  # the weights are not kept
    network = build(TASK.architecture, TASK.seed)
    *_, last = fit(network, split.train, split.val, TRAINING, seed=TASK.seed, compute_mode=ComputeMode())
    assert result.values == (last.val_accuracy, pytest.approx(last.val_loss))
    assert [metrics.val_accuracy for metrics in epochs] == [None, None]


def test_diverged_final_training_fails(run):
    result, _ = run(replace(TASK, training=replace(TRAINING, optimizer=SGD(1e30))))

    assert result.state == TrialState.FAIL
    assert result.reason.startswith("diverged: loss")
    assert (result.values, result.safetensors) == (None, None)
