"""Enqueued trials are trained first, once, and never over the budget."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from optuna.trial import TrialState

from experiments import BASELINES, StudyConfig, defaults
from mnist_search.errors import UsageError
from mnist_search.search.study import SearchStudy
from mnist_search.search.warm_start import (
    enqueue_baselines,
    enqueue_best,
    enqueue_templates,
    known_templates,
    project_to_space,
)
from search_space import SearchSpace
from search_space.training_config import OneCycle

TRAINING = replace(defaults.TRAINING, schedule=OneCycle(cycle_momentum=False))
"""The default training configuration as new studies have it."""


def create_study(store, budget, n_trials=3):
    study_config = StudyConfig(budget=budget, space=SearchSpace.for_budget(budget))
    return SearchStudy.open_or_create(store, f"budget-{budget}", study_config, n_trials)


@pytest.mark.parametrize("name", [name for name in BASELINES if BASELINES[name].params])
def test_projected_params_are_a_point_of_the_space(name):
    for budget in (1000, 8000, 25_000):
        study_config = StudyConfig(budget=budget, space=SearchSpace.for_budget(budget))
        params = project_to_space(study_config, BASELINES[name].params)

        assert params.keys() == study_config.space.distributions.keys()
        for param, distribution in study_config.space.distributions.items():
            assert distribution._contains(distribution.to_internal_repr(params[param])), param


def test_architecture_of_seed_001_is_a_point_of_the_space():
    study_config = StudyConfig(budget=8000, space=SearchSpace.for_budget(8000))

    network = study_config.space.architecture(project_to_space(study_config, BASELINES["seed-001"].params))

    assert network.num_params() == BASELINES["seed-001"].reported.num_params
    assert str(network) == "6-12-P-24-12-P-10-G-fc10"


def test_baselines_within_the_budget_are_trained_first_and_once(store):
    search_study = create_study(store, 8000)

    assert enqueue_baselines(search_study) == ["seed-001"]
    assert enqueue_baselines(search_study) == ["seed-001"]

    assert len(search_study.study.trials) == 1
    claim = search_study.claim()
    assert claim.trial.params["width_3"] == 24
    assert search_study.claim().trial.number == 1


def test_default_training_is_a_point_of_the_space():
    study_config = StudyConfig(budget=8000, space=SearchSpace.for_budget(8000))

    config = study_config.space.decode(
        project_to_space(study_config, {**defaults.TEMPLATE, **defaults.TRAINING_PARAMS})
    )

    assert config.training == TRAINING
    assert str(config.architecture) == "8v-16v-P-8x1-12v-16v-20v-G-fc16-fc10"


@pytest.mark.parametrize("budget", [1000, 8000, 30_000])
def test_templates_are_scaled_to_the_budget_and_enqueued_once(store, budget):
    search_study = create_study(store, budget, n_trials=5)

    for _ in range(2):
        enqueue_templates(search_study)

    assert (
        len(search_study.study.trials) == 1 + sum(bool(recipe.params) for recipe in BASELINES.values()) == 5
    )
    for _ in range(5):
        config = search_study.config.space.suggest(search_study.claim().trial)
        assert 0.85 * budget < config.architecture.num_params() <= budget
        assert config.training == TRAINING


def test_template_keeps_its_proportions_in_narrower_bounds(store):
    study_config = create_study(store, 1000).config
    assert study_config.space.width == (2, 11)

    network = study_config.space.architecture(known_templates(study_config)[0])

    assert str(network) == "2v-5v-P-2x1-4v-5v-6v-G-fc16-fc10"  # of 8-16, 8, 12-16-20


def test_templates_are_not_enqueued_in_a_started_study(store):
    search_study = create_study(store, 8000)
    search_study.claim()

    enqueue_templates(search_study)

    assert len(search_study.study.trials) == 1


def test_no_more_templates_are_enqueued_than_slots(store):
    search_study = create_study(store, 8000, n_trials=2)

    enqueue_templates(search_study)

    assert len(search_study.study.trials) == 2


def test_more_baselines_are_within_a_larger_budget(store):
    assert enqueue_baselines(create_study(store, 12_000)) == ["seed-000", "seed-001", "seed-004"]


def test_enqueue_refuses_params_over_the_budget(store):
    search_study = create_study(store, 8000)
    params = project_to_space(search_study.config, BASELINES["seed-000"].params)

    with pytest.raises(UsageError, match="8,942 parameters is over the budget of 8,000"):
        search_study.enqueue(params)
    assert search_study.study.trials == []


def test_enqueue_copies_a_trial_of_another_study(store, command, tmp_path):
    small, large = create_study(store, 2000), create_study(store, 4000)
    small.claim()
    storage = ("--storage", f"sqlite:///{tmp_path}/store.db")

    first = command("enqueue", large.name, "--from", small.name, "--trial", "0", *storage)
    again = command("enqueue", large.name, "--from", small.name, "--trial", "0", *storage)

    assert (first.code, again.code) == (0, 0), first.err
    assert "enqueued in budget-4000:" in first.out
    assert "budget-4000 already has a trial of" in again.out
    assert len(large.study.trials) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "either --baseline NAME or --trial NUMBER"),
        (("--baseline", "seed-003"), 66, "no baseline 'seed-003' in the search space"),
        (("--trial", "5"), 66, "has no trial 5"),
        (("--baseline", "seed-000"), 2, "over the budget of 8,000"),
    ],
)
def test_enqueue_refuses_invalid_arguments_in_one_line(store, command, tmp_path, arguments, code, message):
    search_study = create_study(store, 8000)

    done = command("enqueue", search_study.name, *arguments, "--storage", f"sqlite:///{tmp_path}/store.db")

    assert (done.code, done.out, done.err.count("\n")) == (code, "", 1)
    assert message in done.err
    assert search_study.study.trials == []


def test_best_trials_of_a_smaller_budget_are_enqueued(store):
    small, large = create_study(store, 2000, n_trials=4), create_study(store, 4000)
    for accuracy in (0.95, 0.97, 0.96, 0.94):
        claim = small.claim()
        claim.trial.set_user_attr("num_params", 1900)
        small.queue.finish(
            claim,
            TrialState.COMPLETE,
            [accuracy],
            attributes={"curve": [{"val_accuracy": accuracy, "val_loss": 0}]},
        )

    enqueue_best(large, small.record())
    enqueue_best(large, small.record())

    waiting = [trial.system_attrs["fixed_params"] for trial in large.study.trials]
    best = [small.study.trials[number].params for number in (1, 2, 0)]
    assert [params["depth"] for params in waiting] == [params["depth"] for params in best]
    assert all(large.config.parameter_budget.fits(params) for params in waiting)
    counts = [large.config.parameter_budget.count(params) for params in waiting]
    assert min(counts) > 2000


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_run_searches_several_budgets_in_turn(command, mnist_dir):
    quick = ("--trials", "2", "--epochs", "1", "--train-images", "1000", "--val-images", "500", "--no-mlflow")

    done = command("run", "--budget", "3000,1500", *quick, "--data-dir", mnist_dir, timeout=280)

    assert done.code == 0, done.err
    assert done.err.index("study budget-1500") < done.err.index("study budget-3000")
    rows = json.loads(command("studies", "--format", "json").out)
    assert [(row["study"], row["trials_done"]) for row in rows] == [("budget-1500", 2), ("budget-3000", 2)]
