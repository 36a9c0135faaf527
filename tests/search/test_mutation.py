"""The sampler that mutates the best trials."""

from __future__ import annotations

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from mnist_search.search.mutation import MutationSampler

SPACE = {
    "depth": IntDistribution(1, 9),
    "even": IntDistribution(2, 20, step=2),
    "rate": FloatDistribution(1e-4, 1.0, log=True),
    "grid": FloatDistribution(0.0, 0.1, step=0.01),
    "share": FloatDistribution(-1.0, 1.0),
    "log": IntDistribution(1, 1000, log=True),
    "kind": CategoricalDistribution(("a", "b", "c")),
}
BEST = {"depth": 5, "even": 10, "rate": 0.01, "grid": 0.05, "share": 0.0, "log": 30, "kind": "b"}
OTHER = {"depth": 1, "even": 2, "rate": 1e-4, "grid": 0.0, "share": -1.0, "log": 1, "kind": "a"}


def finished(params, value=None, *, steps=0, state=TrialState.COMPLETE):
    reports = {steps: 0.5 if value is None else value} if steps else {}
    is_complete = state == TrialState.COMPLETE
    return create_trial(
        state=state, value=value if is_complete else None, params=params, distributions=SPACE,
        intermediate_values=reports,
    )  # fmt: skip


def study_of(*trials, direction="maximize", sampler=None):
    study = optuna.create_study(direction=direction, sampler=sampler or MutationSampler(0, 1, 1))
    study.add_trials(trials)
    return study


def proposals(study, number=200):
    return [study.ask(SPACE).params for _ in range(number)]


def test_mutation_keeps_most_params_of_the_best_trial_and_changes_at_least_one():
    study = study_of(finished(BEST, 0.9), finished(OTHER, 0.1))

    changed = [sum(params[name] != BEST[name] for name in SPACE) for params in proposals(study)]

    assert min(changed) == 1
    assert 1.5 < sum(changed) / len(changed) < 3.5


@pytest.mark.parametrize("name", SPACE)
def test_changed_values_are_values_of_the_distribution(name):
    study = study_of(finished(BEST, 0.9))

    values = {params[name] for params in proposals(study)}

    distribution = SPACE[name]
    assert len(values) >= 3
    assert all(distribution._contains(distribution.to_internal_repr(value)) for value in values)
    assert all(type(value) is type(BEST[name]) for value in values)


@pytest.mark.parametrize(
    ("direction", "trials"),
    [
        ("maximize", [finished(OTHER, 0.1), finished(BEST, 0.9)]),
        ("minimize", [finished(OTHER, 0.9), finished(BEST, 0.1)]),
        ("maximize", [finished(OTHER, steps=2, state=TrialState.PRUNED), finished(BEST, 0.1)]),
        ("maximize", [finished(OTHER, 0.9, steps=2, state=TrialState.PRUNED),
                      finished(BEST, 0.1, steps=5, state=TrialState.PRUNED)]),
        ("maximize", [finished(OTHER, 0.1, steps=2, state=TrialState.PRUNED),
                      finished(BEST, 0.9, steps=2, state=TrialState.PRUNED)]),
        ("maximize", [finished(OTHER, state=TrialState.FAIL), finished(BEST, 0.1)]),
        ("maximize", [finished(OTHER, state=TrialState.PRUNED), finished(BEST, 0.1)]),
    ],
)  # fmt: skip
def test_best_trial_is_the_parent(direction, trials):
    study = study_of(*trials, direction=direction)

    of_best, of_other = (
        sum(params[name] == parent[name] for params in proposals(study, 50) for name in SPACE)
        for parent in (BEST, OTHER)
    )
    assert of_best > 150
    assert of_other < 50


def test_parents_are_the_best_n_trials():
    middle = OTHER | {"kind": "c", "depth": 9}
    study = study_of(
        finished(BEST, 0.9), finished(middle, 0.8), finished(OTHER, 0.1), sampler=MutationSampler(0, 1, 2)
    )

    kinds = [params["kind"] for params in proposals(study)]

    assert kinds.count("b") > 50
    assert kinds.count("c") > 50
    assert kinds.count("a") < 50


def test_proposals_are_random_before_there_are_enough_trials():
    study = study_of(finished(BEST, 0.9), sampler=MutationSampler(0, n_startup_trials=2))

    assert len({params["share"] for params in proposals(study, 50)}) == 50


def test_seed_determines_the_mutations():
    first, again, other = (
        proposals(study_of(finished(BEST, 0.9), sampler=MutationSampler(seed, 1)), 20) for seed in (1, 1, 2)
    )

    assert first == again != other
