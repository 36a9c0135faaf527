"""The budget sampler and the budget pruner around Optuna's own."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import cycle

import numpy as np
import optuna
import pytest
from optuna.pruners import NopPruner, ThresholdPruner
from optuna.samplers import GPSampler, RandomSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.testing.pytest_samplers import BasicSamplerTestCase, RelativeSamplerTestCase
from optuna.trial import TrialState, create_trial

from experiments import StudyConfig
from mnist_search.errors import UsageError
from mnist_search.search.mutation import MutationSampler
from mnist_search.search.pruners import PRUNERS, ParameterBudgetPruner, check_pruner, pruner_for
from mnist_search.search.samplers import (
    SAMPLERS,
    UNSUPPORTED,
    BudgetSampler,
    check_sampler,
    sampler_for_trial,
)
from search_space import ParameterBudget, SearchSpace

CONFIG = StudyConfig(budget=8000, space=SearchSpace.for_budget(8000))
BUDGET = CONFIG.parameter_budget


def reject_every_other(sampler):
    """Wrap a sampler so that every other proposal is rejected."""
    answers = cycle((False, True))
    return BudgetSampler(sampler, {}, lambda _: next(answers))


pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


class TestBasicContract(BasicSamplerTestCase):
    """Optuna's tests of any sampler."""

    @pytest.fixture(
        params=[
            lambda: reject_every_other(RandomSampler(seed=0)),
            lambda: reject_every_other(TPESampler(seed=0, n_startup_trials=0)),
            lambda: reject_every_other(
                GPSampler(seed=0, n_startup_trials=0, warn_independent_sampling=False)
            ),
            lambda: reject_every_other(MutationSampler(seed=0, n_startup_trials=0)),
        ],
        ids=["random", "tpe", "gp", "mutation"],
    )
    def sampler(self, request):
        return request.param


class TestRelativeContract(RelativeSamplerTestCase):
    """Optuna's tests of samplers that propose jointly."""

    @pytest.fixture(
        params=[
            lambda: reject_every_other(TPESampler(seed=0, n_startup_trials=0, multivariate=True)),
            lambda: reject_every_other(MutationSampler(seed=0, n_startup_trials=0)),
        ],
        ids=["tpe", "mutation"],
    )
    def sampler(self, request):
        return request.param


class RecordingStorage(InMemoryStorage):
    """Records the system attributes that are written."""

    def __init__(self):
        super().__init__()
        self.writes = []

    def set_trial_system_attr(self, trial_id, key, value):
        self.writes.append((trial_id, key, value))
        super().set_trial_system_attr(trial_id, key, value)


def propose(study_config, trials, score=lambda params: params["depth"], storage=None):
    """A study without any training, and the number of rejected proposals by trial."""
    study = optuna.create_study(direction="maximize", storage=storage)
    rejected = []
    for number in range(trials):
        study.sampler = sampler_for_trial(study_config, number)
        trial = study.ask()
        study_config.space.suggest(trial)
        rejected.append(study.sampler.rejected)
        study.tell(trial, score(trial.params))
    return study, rejected


@pytest.mark.parametrize("fill", [True, False])
@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_sampler_proposes_no_network_over_the_budget(name, fill):
    study_config = replace(CONFIG, sampler=name, fill=fill)

    study, rejected = propose(study_config, trials=12)

    counts = [BUDGET.count(trial.params) for trial in study.trials]
    assert max(counts) <= 8000
    assert len(counts) == 12
    assert any(rejected) is not fill


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_seed_determines_the_proposals(name):
    study_config = replace(CONFIG, sampler=name, seed=3)

    first, _ = propose(study_config, trials=11)
    again, _ = propose(study_config, trials=11)

    assert [t.params for t in first.trials] == [t.params for t in again.trials]
    assert len({str(t.params) for t in first.trials}) == 11


@pytest.mark.parametrize("fill", [True, False])
@pytest.mark.parametrize(
    ("name", "trials"),
    [("tpe", 16), pytest.param("gp", 12, marks=pytest.mark.slow)],  # one of gp takes a second
)
def test_only_the_proposal_that_is_used_is_written(name, trials, fill):
    """Other workers read it, so it must hold no rejected or unscaled params."""
    storage = RecordingStorage()

    study, rejected = propose(
        replace(CONFIG, sampler=name, fill=fill, seed=5), trials=trials, storage=storage
    )

    for trial in study.trials[10:]:  # the first ten are random
        writes = [(key, value) for trial_id, key, value in storage.writes if trial_id == trial._trial_id]
        assert [key for key, _ in writes] == [f"{name}:relative_params:0"]
        assert json.loads(writes[0][1]) == trial.params
    assert any(rejected[10:]) is not fill


def test_scaled_proposals_use_nearly_the_whole_budget():
    study, _ = propose(CONFIG, trials=40)

    assert np.mean([BUDGET.count(trial.params) for trial in study.trials]) > 0.95 * 8000


def test_wrapped_sampler_learns():
    """TPE learns a preference for little dropout, random search does not."""
    score = lambda params: -params["dropout"]  # noqa: E731

    tpe, _ = propose(CONFIG, trials=60, score=score)
    random, _ = propose(replace(CONFIG, sampler="random"), trials=60, score=score)

    late = [np.mean([t.params["dropout"] for t in study.trials[30:]]) for study in (tpe, random)]
    assert late[0] < late[1] / 2


def test_enqueued_params_are_kept_and_completed_within_the_budget():
    study = optuna.create_study()
    study.enqueue_trial({"depth": 7, "width_1": 30})
    study.sampler = sampler_for_trial(replace(CONFIG, fill=False), 0)

    trial = study.ask()
    CONFIG.space.suggest(trial)

    assert (trial.params["depth"], trial.params["width_1"]) == (7, 30)
    assert BUDGET.fits(trial.params)


def test_repair_is_applied_after_max_draws():
    smallest = ParameterBudget(CONFIG.space, CONFIG.space.smallest)
    sampler = BudgetSampler(
        RandomSampler(seed=0),
        CONFIG.space.distributions,
        smallest.fits,
        repair=smallest.scale_to_budget,
        max_draws=7,
    )
    study = optuna.create_study(sampler=sampler)

    trial = study.ask()
    CONFIG.space.suggest(trial)

    assert smallest.count(trial.params) == smallest.limit
    assert sampler.rejected == 7


@pytest.mark.parametrize("name", sorted(UNSUPPORTED))
def test_unsupported_sampler_is_rejected_and_the_error_gives_the_reason(name):
    with pytest.raises(
        UsageError, match=f"sampler {name} cannot be used: .+; start a study with --sampler tpe"
    ):
        check_sampler(name)


def test_unknown_sampler_or_pruner_is_rejected_and_the_error_names_the_available_ones():
    with pytest.raises(UsageError, match="no sampler 'magic'; --sampler takes tpe, random, gp, mutation"):
        check_sampler("magic")
    with pytest.raises(UsageError, match="no pruner 'magic'; --pruner takes screening"):
        check_pruner("magic")


def frozen_trial(width, steps=()):
    params = CONFIG.space.draw(np.random.RandomState(0)) | dict.fromkeys(CONFIG.space.width_params, width)
    params = {name: param for name, param in params.items() if name in CONFIG.space.architecture_params}
    return create_trial(
        state=TrialState.RUNNING,
        params=params,
        distributions=CONFIG.space.architecture_params,
        intermediate_values=dict(steps),
    )


def test_budget_pruner_prunes_before_the_first_report():
    pruner = ParameterBudgetPruner(NopPruner(), BUDGET)
    study = optuna.create_study()

    assert pruner.prune(study, frozen_trial(width=30))
    assert not pruner.prune(study, frozen_trial(width=4))


def test_budget_pruner_defers_to_the_wrapped_pruner():
    pruner = ParameterBudgetPruner(ThresholdPruner(lower=0.5), BUDGET)
    study = optuna.create_study(direction="maximize")

    assert pruner.prune(study, frozen_trial(width=4, steps={1: 0.1}))
    assert not pruner.prune(study, frozen_trial(width=4, steps={1: 0.9}))


@pytest.mark.parametrize("name", sorted(PRUNERS))
def test_every_pruner_prunes_over_the_budget(name):
    pruner = pruner_for(replace(CONFIG, pruner=name))
    study = optuna.create_study(direction="maximize", pruner=pruner)

    study.add_trial(frozen_trial(width=30))
    study.add_trial(frozen_trial(width=4, steps={1: 0.9}))
    over, within = study.trials

    assert pruner.prune(study, over)
    assert not pruner.prune(study, within)


def test_asha_prunes_no_trial_in_its_first_third():
    pruner = pruner_for(replace(CONFIG, pruner="asha"))
    study = optuna.create_study(direction="maximize", pruner=pruner)
    for number, accuracy in enumerate((0.9, 0.8, 0.7)):
        study.sampler = sampler_for_trial(CONFIG, number)
        trial = study.ask(CONFIG.space.distributions)
        pruned = []
        for epoch in range(1, 6):
            trial.report(accuracy, epoch)
            pruned.append(trial.should_prune())
        assert pruned == [False] * 4 + [accuracy < 0.9]
