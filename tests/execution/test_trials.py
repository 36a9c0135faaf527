"""One trial's life, from params to outcome, on real digits."""

from __future__ import annotations

from dataclasses import replace

import optuna
import pytest
import torch
from fakes import ForbidTensorOps, RecordingTracker
from optuna.trial import TrialState

from experiments import StudyConfig
from mnist_search.execution.trials import Interrupted, OutOfTime, TrialContext, run_search_trial
from mnist_search.search.pruners import pruner_for
from mnist_search.search.samplers import sampler_for_trial
from mnist_search.training.device import CPU, ComputeMode
from mnist_search.training.model import build, count
from search_space import SearchSpace


@pytest.fixture
def tracker():
    return RecordingTracker()


@pytest.fixture
def setup(study_config, small_split, tracker):
    return TrialContext(
        config=study_config,
        data=small_split,
        device=CPU,
        compute_mode=ComputeMode(),
        tracker=tracker,
        seed_of=lambda number: number,
        checkpoint=lambda: None,
        on_begin=lambda *_: None,
        on_epoch=lambda *_: None,
    )


def ask(study_config, **params):
    study = optuna.create_study(direction="maximize", pruner=pruner_for(study_config))
    study.enqueue_trial(params)
    study.sampler = sampler_for_trial(study_config, 0)
    return study.ask()


def test_a_trial_that_trains_to_its_end_is_complete_with_its_last_accuracy(setup, tracker):
    trial = ask(setup.config)

    outcome = run_search_trial(trial, setup)

    assert outcome.state == TrialState.COMPLETE
    assert [record["epoch"] for record in outcome.curve] == [1, 2]
    assert outcome.value == outcome.curve[-1]["val_accuracy"]
    assert trial.user_attrs["num_params"] <= 1500
    (run,) = tracker.runs.values()
    assert run.epochs == outcome.curve


def test_the_weights_that_a_trial_leaves_reproduce_its_score(setup):
    from safetensors.torch import load

    from mnist_search.training.fit import evaluate

    trial = ask(setup.config)
    outcome = run_search_trial(trial, setup)

    network = build(setup.config.space.architecture(trial.params), seed=99)
    network.load_state_dict(load(outcome.trained))

    assert evaluate(network, setup.data.val).accuracy == outcome.value
    assert count(network) == trial.user_attrs["num_params"]


def test_a_trial_over_the_budget_is_pruned_before_any_tensor_or_run_exists(setup, tracker):
    widths = dict.fromkeys(setup.config.space.width_params, 13)

    trial = ask(setup.config, depth=7, **widths)

    with ForbidTensorOps():
        outcome = run_search_trial(trial, setup)

    assert outcome.state == TrialState.PRUNED
    assert outcome.reason.startswith("over budget: ")
    assert outcome.reason.endswith(" parameters, 1,500 allowed")
    assert tracker.runs == {}


def test_a_trial_that_diverges_fails_with_the_reason(setup):
    space = setup.config.space
    params = {"optimizer": "sgd", "sgd_lr": 0.4, "batch_size": 32}
    trial = ask(setup.config, **params)

    class Wild(type(space)):
        def training(self, params):
            return replace(
                super().training(params), optimizer=replace(super().training(params).optimizer, lr=1e9)
            )

    wild = replace(setup, config=replace(setup.config, space=Wild(width=space.width, epochs=2)))
    outcome = run_search_trial(trial, wild)

    assert outcome.state == TrialState.FAIL
    assert outcome.reason.startswith("diverged: loss ")
    assert outcome.value is None
    assert outcome.trained is None


def test_a_trial_that_raises_fails_with_its_traceback(setup):
    def broken(*_):
        raise ZeroDivisionError("a bug")

    outcome = run_search_trial(ask(setup.config), replace(setup, on_epoch=broken))

    assert outcome.state == TrialState.FAIL
    assert outcome.reason == "error: ZeroDivisionError: a bug"
    assert "in broken" in outcome.traceback


@pytest.mark.parametrize("kind", [Interrupted, OSError, torch.OutOfMemoryError])
def test_what_is_not_the_trials_fault_is_raised(setup, kind):
    def stop():
        raise kind("no space left")

    with pytest.raises(kind):
        run_search_trial(ask(setup.config), replace(setup, checkpoint=stop))


def test_a_trial_that_takes_too_long_is_pruned_with_what_it_reached(setup):
    epochs = []

    def checkpoint():
        if epochs:
            raise OutOfTime("trial timeout of 1 s")

    outcome = run_search_trial(
        ask(setup.config),
        replace(setup, checkpoint=checkpoint, on_epoch=lambda _, record: epochs.append(record)),
    )

    assert (outcome.state, outcome.reason) == (TrialState.PRUNED, "trial timeout of 1 s")
    assert len(outcome.curve) == 1


def test_a_slow_trial_is_pruned_by_score_but_never_after_its_last_epoch(setup):
    study_config = StudyConfig(
        budget=1500, space=SearchSpace.for_budget(1500, epochs=3), train_images=1000, val_images=500
    )
    study = optuna.create_study(direction="maximize", pruner=pruner_for(study_config))
    for number in range(5):
        study.sampler = sampler_for_trial(study_config, number)
        great = study.ask(study_config.space.distributions)
        for epoch in (1, 2, 3):
            great.report(0.999, epoch)
            assert not great.should_prune()
        study.tell(great, 0.999)
    study.sampler = sampler_for_trial(study_config, 5)

    outcome = run_search_trial(study.ask(), replace(setup, config=study_config))

    assert (outcome.state, outcome.reason) == (TrialState.PRUNED, "asha pruner after epoch 1")
    last_only = replace(study_config, space=SearchSpace.for_budget(1500, epochs=1))
    study.sampler = sampler_for_trial(last_only, 6)
    assert run_search_trial(study.ask(), replace(setup, config=last_only)).state == TrialState.COMPLETE
