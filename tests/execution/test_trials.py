"""run_search_trial: from params to result, on real digits."""

from __future__ import annotations

from dataclasses import replace

import optuna
import pytest
import torch
from fakes import ForbidTensorOps, RecordingTracker
from optuna.trial import TrialState

from experiments import StudyConfig
from mnist_search.execution.trials import Interrupted, TrialContext, TrialTimeout, run_search_trial
from mnist_search.search.pruners import pruner_for
from mnist_search.search.samplers import sampler_for_trial
from mnist_search.training.device import ComputeMode
from mnist_search.training.model import build, count
from search_space import SearchSpace


@pytest.fixture
def tracker():
    return RecordingTracker()


@pytest.fixture
def context(study_config, small_split, tracker):
    return TrialContext(
        config=study_config,
        data=small_split,
        compute_mode=ComputeMode(),
        tracker=tracker,
        checkpoint=lambda: None,
        on_start=lambda *_: None,
        on_epoch=lambda *_: None,
    )


def ask(study_config, **params):
    study = optuna.create_study(direction="maximize", pruner=pruner_for(study_config))
    study.enqueue_trial(params)
    study.sampler = sampler_for_trial(study_config, 0)
    return study.ask()


def test_trial_is_complete_with_its_last_accuracy(context, tracker):
    trial = ask(context.config)

    result = run_search_trial(trial, context)

    assert result.state == TrialState.COMPLETE
    assert [metrics.epoch for metrics in result.curve] == [1, 2]
    assert result.value == result.curve[-1].val_accuracy
    assert trial.user_attrs["num_params"] <= 1500
    (run,) = tracker.runs.values()
    assert run.epochs == result.curve


def test_weights_of_a_trial_reproduce_its_score(context):
    from safetensors.torch import load

    from mnist_search.training.evaluate import evaluate

    trial = ask(context.config)
    result = run_search_trial(trial, context)

    network = build(context.config.space.architecture(trial.params), seed=99)
    network.load_state_dict(load(result.safetensors))

    assert evaluate(network, context.data.val).accuracy == result.value
    assert count(network) == trial.user_attrs["num_params"]


def test_trial_over_the_budget_is_pruned_before_tensors_and_runs(context, tracker):
    widths = dict.fromkeys(context.config.space.width_params, 13)

    trial = ask(context.config, depth=7, **widths)

    with ForbidTensorOps():
        result = run_search_trial(trial, context)

    assert result.state == TrialState.PRUNED
    assert result.reason.startswith("over budget: ")
    assert result.reason.endswith(" parameters, 1,500 allowed")
    assert trial.user_attrs["over_budget"] is True
    assert tracker.runs == {}


@pytest.mark.filterwarnings("ignore:Fixed parameter sgd_lr")
def test_trial_fails_when_it_diverges(context):
    trial = ask(context.config, optimizer="sgd", sgd_lr=1e9)

    result = run_search_trial(trial, context)

    assert result.state == TrialState.FAIL
    assert result.reason.startswith("diverged: loss ")
    assert result.value is None
    assert result.safetensors is None


def test_trial_fails_with_a_traceback_when_it_raises(context):
    def broken(*_):
        raise ZeroDivisionError("a bug")

    result = run_search_trial(ask(context.config), replace(context, on_epoch=broken))

    assert result.state == TrialState.FAIL
    assert result.reason == "error: ZeroDivisionError: a bug"
    assert "in broken" in result.traceback


@pytest.mark.parametrize("kind", [Interrupted, OSError, torch.OutOfMemoryError])
def test_errors_of_the_machine_are_raised(context, kind):
    def stop():
        raise kind("no space left")

    with pytest.raises(kind):
        run_search_trial(ask(context.config), replace(context, checkpoint=stop))


def test_trial_is_pruned_with_its_epochs_when_it_exceeds_its_timeout(context):
    epochs = []

    def checkpoint():
        if epochs:
            raise TrialTimeout("trial timeout of 1 s")

    result = run_search_trial(
        ask(context.config),
        replace(context, checkpoint=checkpoint, on_epoch=lambda _, metrics: epochs.append(metrics)),
    )

    assert (result.state, result.reason) == (TrialState.PRUNED, "trial timeout of 1 s")
    assert len(result.curve) == 1


def test_trial_is_pruned_by_score_but_not_after_its_last_epoch(context):
    study_config = StudyConfig(
        budget=1500, space=SearchSpace.for_budget(1500, epochs=3), train_images=1000, val_images=500
    )
    study = optuna.create_study(direction="maximize", pruner=pruner_for(study_config))
    for number in range(5):
        study.sampler = sampler_for_trial(study_config, number)
        accurate = study.ask(study_config.space.distributions)
        for epoch in (1, 2, 3):
            accurate.report(0.999, epoch)
            assert not accurate.should_prune()
        study.tell(accurate, 0.999)
    study.sampler = sampler_for_trial(study_config, 5)

    result = run_search_trial(study.ask(), replace(context, config=study_config))

    assert (result.state, result.reason) == (TrialState.PRUNED, "asha pruner after epoch 1")
    last_only = replace(study_config, space=SearchSpace.for_budget(1500, epochs=1))
    study.sampler = sampler_for_trial(last_only, 6)
    assert run_search_trial(study.ask(), replace(context, config=last_only)).state == TrialState.COMPLETE
