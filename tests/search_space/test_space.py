"""The joint search space, the parameter budget and the study configuration."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import FixedTrial

from experiments import StudyConfig
from search_space import ParameterBudget, SearchSpace
from search_space.training_config import SGD, Adam, Augmentation, TrainingConfig

SPACE = SearchSpace()
BUDGET = ParameterBudget(SPACE, 8000)
seeds = st.integers(0, 2**32 - 1)


def draw_params(space, seed):
    """Draw a full set of params with Optuna's random sampler."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return study.ask(space.distributions).params


def test_suggest_builds_the_same_config_from_live_fixed_and_stored_trials():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    trial = study.ask()

    config = SPACE.suggest(trial)
    study.tell(trial, 0.0)

    assert SPACE.suggest(FixedTrial(trial.params)) == config
    assert SPACE.suggest(study.trials[0]) == config


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_suggest_uses_every_distribution_in_every_trial(seed):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trial = study.ask()

    SPACE.suggest(trial)

    assert trial.distributions == SPACE.distributions


@settings(max_examples=100, deadline=None)
@given(seeds)
def test_unused_params_do_not_change_the_architecture(seed):
    params = SPACE.draw(np.random.RandomState(seed))
    unused = {f"width_{i}": 17 for i in range(params["depth"] + 1, 8)}
    if not params["transition"]:
        unused["transition_width"] = 17

    assert SPACE.architecture(params | unused) == SPACE.architecture(params)


@settings(max_examples=100, deadline=None)
@given(seeds)
def test_every_point_decodes_to_a_config(seed):
    config = SPACE.decode(draw_params(SPACE, seed))

    assert config.training.epochs == 15
    assert isinstance(config.training.optimizer, SGD | Adam)
    assert len(SPACE.describe(draw_params(SPACE, seed))) <= 22  # an MLflow run adds two


def test_out_of_range_bounds_are_refused():
    for bounds in ({"depth": (2, 7)}, {"depth": (5, 4)}, {"width": (0, 4)}, {"epochs": 0}):
        with pytest.raises(ValueError, match=next(iter(bounds))):
            SearchSpace(**bounds)


budgets = st.sampled_from([400, 600, 1000, 2000, 8000, 25_000])


@settings(max_examples=100, deadline=None)
@given(budgets, seeds)
def test_scale_to_budget_applies_the_largest_scale_within_the_budget(limit, seed):
    budget = ParameterBudget(SearchSpace.for_budget(limit), limit)
    params = budget.space.draw(np.random.RandomState(seed))

    scaled = budget.scale_to_budget(params)

    assert budget.count(scaled) <= limit
    low, high = budget.space.width
    widths = {name: params[name] for name in budget.space.width_params}
    scales = np.geomspace(low / high, high / low, 400)
    candidates = ({n: int(min(max(round(w * s), low), high)) for n, w in widths.items()} for s in scales)
    fitting = [budget.count(scaled | c) for c in candidates if budget.fits(scaled | c)]
    assert budget.count(scaled) >= max(fitting, default=0)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([SearchSpace(), SearchSpace(depth=(3, 4), width=(2, 9))]), seeds)
def test_scale_to_budget_reaches_the_smallest_network_from_any_params(space, seed):
    tight = ParameterBudget(space, space.smallest)

    scaled = tight.scale_to_budget(space.draw(np.random.RandomState(seed)))

    assert tight.count(scaled) == space.smallest


@settings(max_examples=300, deadline=None)
@given(seeds)
def test_random_network_is_between_smallest_and_largest(seed):
    count = BUDGET.count(SPACE.draw(np.random.RandomState(seed)))

    assert SPACE.smallest <= count <= SPACE.largest


@pytest.mark.parametrize(
    ("budget", "bounds", "message"),
    [
        (50, {}, r"the smallest has 132; raise the budget to 132 or lower width \(now 2:4\)$"),
        (50, {"width": (1, 4)}, r"the smallest has 53; raise the budget to 53$"),
        (50, {"width": (1, 4), "depth": (4, 6)}, r"raise the budget to 64 or lower depth \(now 4:6\)$"),
    ],
)
def test_for_budget_refuses_a_budget_below_the_smallest_network(budget, bounds, message):
    with pytest.raises(ValueError, match=message):
        SearchSpace.for_budget(budget, **bounds)


def test_scale_to_budget_refuses_an_impossible_budget():
    impossible = ParameterBudget(SPACE, 50)

    with pytest.raises(ValueError, match="no network of this space has 50 parameters or fewer"):
        impossible.scale_to_budget(SPACE.draw(np.random.RandomState(0)))


def test_study_config_survives_a_json_round_trip():
    study_config = StudyConfig(
        budget=8000, space=SearchSpace.for_budget(8000, depth=(3, 5)), seed=4, fill=False
    )

    assert StudyConfig.from_json(study_config.to_json()) == study_config


def test_differences_lists_every_changed_field():
    stored = StudyConfig(budget=8000, space=SearchSpace(epochs=15))
    requested = StudyConfig(budget=9000, space=SearchSpace(epochs=5), sampler="random")

    differences = stored.differences(requested)

    assert differences == {"budget": (8000, 9000), "epochs": (15, 5), "sampler": ("tpe", "random")}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 99, "budget": 1}'])
def test_from_json_refuses_an_invalid_config(text):
    with pytest.raises(ValueError):  # noqa: PT011 - JSONDecodeError has other messages
        StudyConfig.from_json(text)


@pytest.mark.parametrize(
    "change",
    [
        {"budget": 0},
        {"budget": 10**12},
        {"budget": 8000, "train_images": 10},
        {"budget": 8000, "train_images": 55_000, "val_images": 10_000},
    ],
)
def test_invalid_study_config_is_refused(change):
    with pytest.raises(ValueError, match=r"budget|split|more than the 60,000"):
        StudyConfig(space=SPACE, **change)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"batch_size": 1},
        {"optimizer": SGD(0.0)},
        {"optimizer": Adam(float("nan"))},
        {"label_smoothing": 1.0},
        {"ema_decay": 1.0},
    ],
)
def test_invalid_training_config_is_refused(change):
    valid = {"epochs": 1, "batch_size": 64, "optimizer": SGD(0.1)}

    with pytest.raises(ValueError):  # noqa: PT011 - the messages differ
        TrainingConfig(**(valid | change))


def test_augmentation_of_strength_zero_is_the_identity():
    assert Augmentation.of_strength(0.0).is_identity
    assert not Augmentation.of_strength(0.1).is_identity
