"""run_search_trial: from params to result, on real digits."""

from __future__ import annotations

from dataclasses import replace

import optuna
import pytest
import torch
from fakes import ForbidTensorOps
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from experiments import StudyConfig
from mnist_search.execution.trials import Interrupted, TrialContext, run_search_trial
from mnist_search.search.pruners import pruner_for
from mnist_search.search.samplers import sampler_for_trial
from mnist_search.storage.queue import LostLease
from mnist_search.training.device import ComputeMode
from mnist_search.training.evaluate import evaluate
from mnist_search.training.model import count, load_network
from search_space import SearchSpace


class Reports(list):
    """The reported epochs of a trial, also reported to Optuna as the queue does."""

    def to(self, trial):
        def report(metrics):
            self.append(metrics)
            trial.report(metrics.val_accuracy, metrics.epoch)

        return report


@pytest.fixture
def reports():
    return Reports()


@pytest.fixture
def run(study_config, small_split, reports):
    """Run a trial of a study configuration, with parts of its context replaced."""

    def call(trial, config=study_config, **parts):
        context = TrialContext(
            compute_mode=ComputeMode(),
            checkpoint=lambda: None,
            on_start=lambda *_: None,
            report=reports.to(trial),
            should_prune=trial.should_prune,
            store=lambda function: function(),
        )
        return run_search_trial(trial, config, small_split, replace(context, **parts))

    return call


def ask(study_config, **params):
    study = optuna.create_study(direction="maximize", pruner=pruner_for(study_config))
    study.enqueue_trial(params)
    study.sampler = sampler_for_trial(study_config, 0)
    return study.ask()


def test_trial_is_complete_with_its_last_accuracy(run, study_config, reports):
    started = []
    trial = ask(study_config)

    result = run(trial, on_start=lambda *start: started.append(start))

    assert result.state == TrialState.COMPLETE
    assert [metrics.epoch for metrics in reports] == [1, 2]
    assert list(result.values) == [reports[-1].val_accuracy]
    assert started == [(trial.user_attrs["num_params"], 2)]
    assert trial.user_attrs["num_params"] <= 1500


def test_weights_of_a_trial_reproduce_its_score(run, study_config, small_split):
    trial = ask(study_config)
    result = run(trial)

    network = load_network(study_config.space.architecture(trial.params), result.safetensors)

    assert [evaluate(network, small_split.val).accuracy] == list(result.values)
    assert count(network) == trial.user_attrs["num_params"]


def test_trial_over_the_budget_is_pruned_before_tensors(run, study_config):
    started = []
    widths = dict.fromkeys(study_config.space.width_params, 13)
    trial = ask(study_config, depth=7, **widths)

    with ForbidTensorOps():
        result = run(trial, on_start=lambda *start: started.append(start))

    assert result.state == TrialState.PRUNED
    assert result.reason.startswith("over budget: ")
    assert result.reason.endswith(" parameters, 1,500 allowed")
    assert trial.user_attrs["over_budget"] is True
    assert "device" not in trial.user_attrs  # so that it has no run in MLflow
    assert started == []


@pytest.mark.filterwarnings("ignore:Fixed parameter sgd_lr")
def test_trial_fails_when_it_diverges(run, study_config):
    result = run(ask(study_config, optimizer="sgd", sgd_lr=1e9))

    assert result.state == TrialState.FAIL
    assert result.reason.startswith("diverged: loss ")
    assert (result.values, result.safetensors) == (None, None)


def test_trial_fails_with_a_traceback_when_it_raises(run, study_config):
    def broken(_):
        raise ZeroDivisionError("a bug")

    result = run(ask(study_config), report=broken)

    assert result.state == TrialState.FAIL
    assert result.reason == "error: ZeroDivisionError: a bug"
    assert "in broken" in result.traceback


@pytest.mark.parametrize(
    "error",
    [
        Interrupted(),
        LostLease(),
        OSError(),
        MemoryError(),
        StorageInternalError(),
        torch.OutOfMemoryError(),
        torch.AcceleratorError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_that_are_not_the_trials_are_raised(run, study_config, error):
    def stop():
        raise error

    with pytest.raises(type(error)):
        run(ask(study_config), checkpoint=stop)


def test_trial_is_pruned_after_its_epochs_when_it_exceeds_its_timeout(run, study_config, reports):
    def checkpoint():
        if reports:
            raise optuna.TrialPruned("trial timeout of 1 s")

    result = run(ask(study_config), checkpoint=checkpoint)

    assert (result.state, result.reason) == (TrialState.PRUNED, "trial timeout of 1 s")
    assert len(reports) == 1


def test_trial_is_pruned_by_score_but_not_after_its_last_epoch(run):
    study_config = StudyConfig(
        budget=1500,
        space=SearchSpace.for_budget(1500, epochs=3),
        pruner="asha",
        train_images=1000,
        val_images=500,
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

    result = run(study.ask(), study_config)

    assert (result.state, result.reason) == (TrialState.PRUNED, "asha pruner after epoch 1")
    last_only = replace(study_config, space=SearchSpace.for_budget(1500, epochs=1))
    study.sampler = sampler_for_trial(last_only, 6)
    assert run(study.ask(), last_only).state == TrialState.COMPLETE
