"""One trial's life, from genes to outcome, on real digits."""

from __future__ import annotations

from dataclasses import replace

import optuna
import pytest
import torch
from fakes import NoTensors, RecordingTracker
from optuna.trial import TrialState

from experiments import Experiment
from mnist_search.objective import Interrupted, OutOfTime, Setup, objective
from mnist_search.study.pruners import pruner_for
from mnist_search.study.samplers import sampler_for_trial
from mnist_search.training.device import CPU
from mnist_search.training.model import build, count
from mnist_search.training.step import Way
from search_space import SearchSpace


@pytest.fixture
def tracker():
    return RecordingTracker()


@pytest.fixture
def setup(experiment, small_split, tracker):
    return Setup(
        experiment=experiment,
        data=small_split,
        device=CPU,
        way=Way(),
        tracker=tracker,
        seed_of=lambda number: number,
        checkpoint=lambda: None,
        on_begin=lambda *_: None,
        on_epoch=lambda *_: None,
    )


def ask(experiment, **genes):
    study = optuna.create_study(direction="maximize", pruner=pruner_for(experiment))
    study.enqueue_trial(genes)
    study.sampler = sampler_for_trial(experiment, 0)
    return study.ask()


def test_a_trial_that_trains_to_its_end_is_complete_with_its_last_accuracy(setup, tracker):
    trial = ask(setup.experiment)

    outcome = objective(trial, setup)

    assert outcome.state == TrialState.COMPLETE
    assert [record["epoch"] for record in outcome.curve] == [1, 2]
    assert outcome.value == outcome.curve[-1]["val_accuracy"]
    assert trial.user_attrs["num_params"] <= 1500
    (run,) = tracker.runs.values()
    assert run.epochs == outcome.curve


def test_the_weights_that_a_trial_leaves_reproduce_its_score(setup):
    from safetensors.torch import load

    from mnist_search.training.fit import evaluate

    trial = ask(setup.experiment)
    outcome = objective(trial, setup)

    network = build(setup.experiment.space.architecture(trial.params), seed=99)
    network.load_state_dict(load(outcome.trained))

    assert evaluate(network, setup.data.val).accuracy == outcome.value
    assert count(network) == trial.user_attrs["num_params"]


def test_a_trial_over_the_budget_is_pruned_before_any_tensor_or_run_exists(setup, tracker):
    widths = dict.fromkeys(setup.experiment.space.width_genes, 13)

    trial = ask(setup.experiment, depth=7, **widths)

    with NoTensors():
        outcome = objective(trial, setup)

    assert outcome.state == TrialState.PRUNED
    assert outcome.reason.startswith("over budget: ")
    assert outcome.reason.endswith(" parameters, 1,500 allowed")
    assert tracker.runs == {}


def test_a_trial_that_diverges_fails_with_the_reason(setup):
    space = setup.experiment.space
    genes = {"optimizer": "sgd", "sgd_lr": 0.4, "batch_size": 32}
    trial = ask(setup.experiment, **genes)

    class Wild(type(space)):
        def training(self, genes):
            return replace(
                super().training(genes), optimizer=replace(super().training(genes).optimizer, lr=1e9)
            )

    wild = replace(setup, experiment=replace(setup.experiment, space=Wild(width=space.width, epochs=2)))
    outcome = objective(trial, wild)

    assert outcome.state == TrialState.FAIL
    assert outcome.reason.startswith("diverged: loss ")
    assert outcome.value is None
    assert outcome.trained is None


def test_a_trial_that_raises_fails_with_its_traceback(setup):
    def broken(*_):
        raise ZeroDivisionError("a bug")

    outcome = objective(ask(setup.experiment), replace(setup, on_epoch=broken))

    assert outcome.state == TrialState.FAIL
    assert outcome.reason == "error: ZeroDivisionError: a bug"
    assert "in broken" in outcome.traceback


@pytest.mark.parametrize("kind", [Interrupted, OSError, torch.OutOfMemoryError])
def test_what_is_not_the_trials_fault_is_raised(setup, kind):
    def stop():
        raise kind("no space left")

    with pytest.raises(kind):
        objective(ask(setup.experiment), replace(setup, checkpoint=stop))


def test_a_trial_that_takes_too_long_is_pruned_with_what_it_reached(setup):
    epochs = []

    def checkpoint():
        if epochs:
            raise OutOfTime("trial timeout of 1 s")

    outcome = objective(
        ask(setup.experiment),
        replace(setup, checkpoint=checkpoint, on_epoch=lambda _, record: epochs.append(record)),
    )

    assert (outcome.state, outcome.reason) == (TrialState.PRUNED, "trial timeout of 1 s")
    assert len(outcome.curve) == 1


def test_a_slow_trial_is_pruned_by_score_but_never_after_its_last_epoch(setup):
    experiment = Experiment(
        budget=1500, space=SearchSpace.for_budget(1500, epochs=3), train_images=1000, val_images=500
    )
    study = optuna.create_study(direction="maximize", pruner=pruner_for(experiment))
    for number in range(5):
        study.sampler = sampler_for_trial(experiment, number)
        great = study.ask(experiment.space.distributions)
        for epoch in (1, 2, 3):
            great.report(0.999, epoch)
            assert not great.should_prune()
        study.tell(great, 0.999)
    study.sampler = sampler_for_trial(experiment, 5)

    outcome = objective(study.ask(), replace(setup, experiment=experiment))

    assert (outcome.state, outcome.reason) == (TrialState.PRUNED, "asha pruner after epoch 1")
    last_only = replace(experiment, space=SearchSpace.for_budget(1500, epochs=1))
    study.sampler = sampler_for_trial(last_only, 6)
    assert objective(study.ask(), replace(setup, experiment=last_only)).state == TrialState.COMPLETE
