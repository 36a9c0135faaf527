"""The two lines of defence, around every Optuna sampler that can search this space."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import optuna
import pytest
from optuna.pruners import NopPruner, ThresholdPruner
from optuna.samplers import CmaEsSampler, GPSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, RelativeSamplerTestCase
from optuna.trial import TrialState, create_trial

from experiments import StudyConfig
from mnist_search.errors import UsageError
from mnist_search.search.pruners import PRUNERS, ParameterBudgetPruner, check_pruner, pruner_for
from mnist_search.search.samplers import (
    SAMPLERS,
    UNSUPPORTED,
    BudgetSampler,
    check_sampler,
    sampler_for_trial,
)
from search_space import ParameterBudget, SearchSpace

CONFIG_ATTR = StudyConfig(budget=8000, space=SearchSpace.for_budget(8000))
BUDGET = CONFIG_ATTR.parameter_budget


def picky(sampler):
    """A wrapper that refuses every other proposal."""
    asked = 0

    def fits(_):
        nonlocal asked
        asked += 1
        return asked % 2 == 0

    return BudgetSampler(sampler, {}, fits)


pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


class TestBasicContract(BasicSamplerTestCase):
    """Optuna's own suite for any sampler, on the wrapped ones."""

    @pytest.fixture(
        params=[
            lambda: picky(RandomSampler(seed=0)),
            lambda: picky(TPESampler(seed=0, n_startup_trials=0)),
            lambda: picky(
                QMCSampler(seed=0, warn_independent_sampling=False, warn_asynchronous_seeding=False)
            ),
            lambda: picky(NSGAIISampler(seed=0)),
            lambda: picky(CmaEsSampler(seed=0, n_startup_trials=0, warn_independent_sampling=False)),
            lambda: picky(GPSampler(seed=0, n_startup_trials=0, warn_independent_sampling=False)),
        ],
        ids=["random", "tpe", "qmc", "nsgaii", "cmaes", "gp"],
    )
    def sampler(self, request):
        return request.param


class TestRelativeContract(RelativeSamplerTestCase):
    """Optuna's own suite for samplers that propose jointly, on the wrapped ones."""

    @pytest.fixture(
        params=[lambda: picky(TPESampler(seed=0, n_startup_trials=0, multivariate=True))], ids=["tpe"]
    )
    def sampler(self, request):
        return request.param


def propose(study_config, trials, score=lambda params: params["depth"]):
    """Params and refusals of a study without any training."""
    study = optuna.create_study(direction="maximize")
    refused = 0
    for number in range(trials):
        study.sampler = sampler_for_trial(study_config, number)
        trial = study.ask()
        study_config.space.suggest(trial)
        refused += study.sampler.rejected
        study.tell(trial, score(trial.params))
    return study, refused


@pytest.mark.parametrize("fill", [True, False])
@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_no_sampler_ever_proposes_a_network_over_the_budget(name, fill):
    study_config = replace(CONFIG_ATTR, sampler=name, fill=fill)

    study, refused = propose(study_config, trials=12)

    counts = [BUDGET.count(trial.params) for trial in study.trials]
    assert max(counts) <= 8000
    assert len(counts) == 12
    assert refused == 0 if fill else refused > 0


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_proposals_repeat_with_the_seed(name):
    study_config = replace(CONFIG_ATTR, sampler=name, seed=3)

    first, _ = propose(study_config, trials=11)
    again, _ = propose(study_config, trials=11)

    assert [t.params for t in first.trials] == [t.params for t in again.trials]
    assert len({str(t.params) for t in first.trials}) == 11


def test_filled_proposals_use_nearly_the_whole_budget():
    study, _ = propose(CONFIG_ATTR, trials=40)

    assert np.mean([BUDGET.count(trial.params) for trial in study.trials]) > 0.95 * 8000


def test_the_sampler_learns_through_the_wrapper():
    """TPE finds a preference for little dropout that random search does not."""
    score = lambda params: -params["dropout"]  # noqa: E731

    learned, _ = propose(CONFIG_ATTR, trials=60, score=score)
    drawn, _ = propose(replace(CONFIG_ATTR, sampler="random"), trials=60, score=score)

    late = [np.mean([t.params["dropout"] for t in study.trials[30:]]) for study in (learned, drawn)]
    assert late[0] < late[1] / 2


def test_enqueued_genes_are_kept_and_completed_within_the_budget():
    study = optuna.create_study()
    study.enqueue_trial({"depth": 7, "width_1": 30})
    study.sampler = sampler_for_trial(replace(CONFIG_ATTR, fill=False), 0)

    trial = study.ask()
    CONFIG_ATTR.space.suggest(trial)

    assert (trial.params["depth"], trial.params["width_1"]) == (7, 30)
    assert BUDGET.fits(trial.params)


def test_repair_takes_over_when_nothing_is_drawn_that_fits():
    smallest = ParameterBudget(CONFIG_ATTR.space, BUDGET.smallest)
    sampler = BudgetSampler(
        RandomSampler(seed=0),
        CONFIG_ATTR.space.distributions,
        smallest.fits,
        repair=smallest.fill,
        max_draws=7,
    )
    study = optuna.create_study(sampler=sampler)

    trial = study.ask()
    CONFIG_ATTR.space.suggest(trial)

    assert smallest.count(trial.params) == BUDGET.smallest
    assert sampler.rejected == 7


@pytest.mark.parametrize("name", sorted(UNSUPPORTED))
def test_samplers_that_cannot_search_this_space_are_refused_with_the_reason(name):
    with pytest.raises(UsageError, match=f"--sampler {name} cannot be used: .+; try --sampler tpe"):
        check_sampler(name)


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="no sampler 'magic'; --sampler takes tpe, random, gp"):
        check_sampler("magic")
    with pytest.raises(UsageError, match="no pruner 'magic'; --pruner takes asha"):
        check_pruner("magic")


def frozen(width, steps=()):
    params = CONFIG_ATTR.space.draw(np.random.RandomState(0)) | dict.fromkeys(
        CONFIG_ATTR.space.width_params, width
    )
    params = {name: param for name, param in params.items() if name in CONFIG_ATTR.space.architecture_params}
    return create_trial(
        state=TrialState.RUNNING,
        params=params,
        distributions=CONFIG_ATTR.space.architecture_params,
        intermediate_values=dict(steps),
    )


def test_the_budget_pruner_prunes_what_is_over_before_any_report():
    pruner = ParameterBudgetPruner(NopPruner(), BUDGET)
    study = optuna.create_study()

    assert pruner.prune(study, frozen(width=30))
    assert not pruner.prune(study, frozen(width=4))


def test_the_budget_pruner_leaves_the_rest_to_the_score_pruner():
    pruner = ParameterBudgetPruner(ThresholdPruner(lower=0.5), BUDGET)
    study = optuna.create_study(direction="maximize")

    assert pruner.prune(study, frozen(width=4, steps={1: 0.1}))
    assert not pruner.prune(study, frozen(width=4, steps={1: 0.9}))


@pytest.mark.parametrize("name", sorted(PRUNERS))
def test_every_pruner_guards_the_budget(name):
    pruner = pruner_for(replace(CONFIG_ATTR, pruner=name))
    study = optuna.create_study(direction="maximize", pruner=pruner)

    study.add_trial(frozen(width=30))
    study.add_trial(frozen(width=4, steps={1: 0.9}))
    over, within = study.trials

    assert pruner.prune(study, over)
    assert not pruner.prune(study, within)


def test_the_default_pruner_spares_every_trial_for_a_third_of_its_epochs():
    study = optuna.create_study(direction="maximize", pruner=pruner_for(CONFIG_ATTR))
    for number, accuracy in enumerate((0.9, 0.8, 0.7)):
        study.sampler = sampler_for_trial(CONFIG_ATTR, number)
        trial = study.ask(CONFIG_ATTR.space.distributions)
        pruned = []
        for epoch in range(1, 6):
            trial.report(accuracy, epoch)
            pruned.append(trial.should_prune())
        assert pruned == [False] * 4 + [accuracy < 0.9]
