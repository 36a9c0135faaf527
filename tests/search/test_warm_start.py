"""What is put first is trained first, once, and never over the budget."""

from __future__ import annotations

import json

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


def ledger_of(store, budget, n_trials=3):
    study_config = StudyConfig(budget=budget, space=SearchSpace.for_budget(budget))
    return SearchStudy.open_or_create(store, f"budget-{budget}", study_config, n_trials)


@pytest.mark.parametrize("name", [name for name in BASELINES if BASELINES[name].params])
def test_the_nearest_genes_are_a_point_of_any_space(name):
    for budget in (1000, 8000, 25_000):
        study_config = StudyConfig(budget=budget, space=SearchSpace.for_budget(budget))
        params = project_to_space(study_config, BASELINES[name].params)

        assert params.keys() == study_config.space.distributions.keys()
        for param, distribution in study_config.space.distributions.items():
            inside = distribution._contains(distribution.to_internal_repr(params[param]))
            assert inside, param


def test_seed_001_is_a_point_of_the_space():
    study_config = StudyConfig(budget=8000, space=SearchSpace.for_budget(8000))

    network = study_config.space.architecture(project_to_space(study_config, BASELINES["seed-001"].params))

    assert network.num_params() == BASELINES["seed-001"].reported.num_params
    assert str(network) == "6-12-P-24-12-P-10-G-fc10"


def test_seeds_that_fit_are_trained_first_and_once(store):
    search_study = ledger_of(store, 8000)

    assert enqueue_baselines(search_study) == ["seed-001"]
    assert enqueue_baselines(search_study) == ["seed-001"]

    assert len(search_study.study.trials) == 1
    claim = search_study.claim()
    assert claim.trial.params["width_3"] == 24
    assert search_study.claim().trial.number == 1


def test_our_training_is_a_point_of_the_space():
    study_config = StudyConfig(budget=8000, space=SearchSpace.for_budget(8000))

    config = study_config.space.decode(
        project_to_space(study_config, {**defaults.TEMPLATE, **defaults.TRAINING_PARAMS})
    )

    assert config.training == defaults.TRAINING
    assert str(config.architecture) == "8v-16v-P-8x1-12v-16v-20v-G-fc16-fc10"


@pytest.mark.parametrize("budget", [1000, 8000, 30_000])
def test_known_plans_fill_the_budget_and_are_put_first_once(store, budget):
    search_study = ledger_of(store, budget, n_trials=5)

    for _ in range(2):
        enqueue_templates(search_study)

    assert len(search_study.study.trials) == 1 + sum(bool(seed.params) for seed in BASELINES.values()) == 5
    for _ in range(5):
        config = search_study.config.space.suggest(search_study.claim().trial)
        assert 0.85 * budget < config.architecture.num_params() <= budget
        assert config.training == defaults.TRAINING


def test_a_plan_keeps_its_proportions_where_the_bounds_are_narrower_than_it(store):
    study_config = ledger_of(store, 1000).config
    assert study_config.space.width == (2, 11)

    network = study_config.space.architecture(known_templates(study_config)[0])

    assert str(network) == "2v-5v-P-2x1-4v-5v-6v-G-fc16-fc10"  # of 8-16, 8, 12-16-20


def test_a_study_that_has_begun_is_left_as_it_is(store):
    search_study = ledger_of(store, 8000)
    search_study.claim()

    enqueue_templates(search_study)

    assert len(search_study.study.trials) == 1


def test_no_more_plans_are_put_first_than_there_are_places(store):
    search_study = ledger_of(store, 8000, n_trials=2)

    enqueue_templates(search_study)

    assert len(search_study.study.trials) == 2


def test_a_larger_budget_takes_more_seeds(store):
    assert enqueue_baselines(ledger_of(store, 12_000)) == ["seed-000", "seed-001", "seed-004"]


def test_nothing_over_the_budget_is_put_first(store):
    search_study = ledger_of(store, 8000)
    params = project_to_space(search_study.config, BASELINES["seed-000"].params)

    with pytest.raises(UsageError, match="8,942 parameters is over the budget of 8,000"):
        search_study.enqueue(params)
    assert search_study.study.trials == []


def test_a_trial_of_another_study_is_enqueued_by_its_number(store, command, tmp_path):
    small, large = ledger_of(store, 2000), ledger_of(store, 4000)
    small.claim()
    there = ("--storage", f"sqlite:///{tmp_path}/store.db")

    done = command("enqueue", large.name, "--from", small.name, "--trial", "0", *there)
    again = command("enqueue", large.name, "--from", small.name, "--trial", "0", *there)

    assert (done.code, again.code) == (0, 0), done.err
    assert "will be trained next in budget-4000" in done.out
    assert "is there already" in again.out
    assert len(large.study.trials) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "either --recipe NAME or --trial NUMBER"),
        (("--recipe", "seed-003"), 66, "no recipe 'seed-003' that the space comes near to"),
        (("--trial", "5"), 66, "has no trial 5"),
        (("--recipe", "seed-000"), 2, "over the budget of 8,000"),
    ],
)
def test_what_cannot_be_enqueued_is_told_in_one_line(store, command, tmp_path, arguments, code, said):
    search_study = ledger_of(store, 8000)

    done = command("enqueue", search_study.name, *arguments, "--storage", f"sqlite:///{tmp_path}/store.db")

    assert (done.code, done.out, done.err.count("\n")) == (code, "", 1)
    assert said in done.err
    assert search_study.study.trials == []


def test_a_larger_budget_begins_with_the_best_of_a_smaller_one(store):
    small, large = ledger_of(store, 2000, n_trials=4), ledger_of(store, 4000)
    for accuracy in (0.95, 0.97, 0.96, 0.94):
        claim = small.claim()
        claim.trial.set_user_attr("num_params", 1900)
        small.queue.finish(
            claim,
            TrialState.COMPLETE,
            accuracy,
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
def test_a_ladder_searches_one_budget_after_the_other(command, mnist_dir):
    quick = ("--trials", "2", "--epochs", "1", "--train-images", "1000", "--val-images", "500", "--no-mlflow")

    done = command("run", "--budget", "3000,1500", *quick, "--data-dir", mnist_dir, timeout=280)

    assert done.code == 0, done.err
    assert done.err.index("study budget-1500") < done.err.index("study budget-3000")
    rows = json.loads(command("studies", "--format", "json").out)
    assert [(row["study"], row["trials_done"]) for row in rows] == [("budget-1500", 2), ("budget-3000", 2)]


def complete(search_study, accuracies):
    """Settle as many trials as there are accuracies; those that wait come first."""
    for accuracy in accuracies:
        claim = search_study.claim()
        search_study.config.space.suggest(claim.trial)
        curve = {"curve": [{"val_accuracy": accuracy, "val_loss": 0}]}
        search_study.queue.finish(claim, TrialState.COMPLETE, accuracy, attributes=curve)
