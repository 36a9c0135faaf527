"""The joint space, its one door, and what fits a budget."""

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


def genes_of(space, seed):
    """A full set of params as Optuna's random sampler draws it."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return study.ask(space.distributions).params


def test_the_space_varies_all_that_it_should():
    assert set(SPACE.distributions) == {
        "depth", *(f"width_{i}" for i in range(1, 8)), "transition_width", "pool_1", "pool_2", "padding",
        "transition", "head", "dropout", "dropout_per", "optimizer", "sgd_lr", "adamw_lr",
        "weight_decay", "schedule", "batch_size", "label_smoothing", "augmentation",
    }  # fmt: skip
    schedules = SPACE.distributions["schedule"].choices
    assert set(schedules) == {"one_cycle", "cosine", "step", "plateau", "constant"}


def test_live_fixed_and_stored_trials_pass_the_same_door():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    live = study.ask()

    sampled = SPACE.suggest(live)
    study.tell(live, 0.0)

    assert SPACE.suggest(FixedTrial(live.params)) == sampled
    assert SPACE.suggest(study.trials[0]) == sampled


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_every_trial_has_the_same_distributions(seed):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trial = study.ask()

    SPACE.suggest(trial)

    assert trial.distributions == SPACE.distributions


@settings(max_examples=100, deadline=None)
@given(seeds)
def test_genes_that_a_network_does_not_use_do_not_change_it(seed):
    params = SPACE.draw(np.random.RandomState(seed))
    unused = {f"width_{i}": 17 for i in range(params["depth"] + 1, 8)}
    if not params["transition"]:
        unused["transition_width"] = 17

    assert SPACE.architecture(params | unused) == SPACE.architecture(params)


@settings(max_examples=100, deadline=None)
@given(seeds)
def test_every_point_decodes_to_a_network_and_a_training(seed):
    config = SPACE.decode(genes_of(SPACE, seed))

    assert config.training.epochs == 15
    assert isinstance(config.training.optimizer, SGD | Adam)
    assert len(SPACE.describe(genes_of(SPACE, seed))) <= 22  # three more go on a run, 25 at most


def test_out_of_range_bounds_are_refused():
    for wrong in ({"depth": (2, 7)}, {"depth": (5, 4)}, {"width": (0, 4)}, {"epochs": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SearchSpace(**wrong)


budgets = st.sampled_from([400, 600, 1000, 2000, 8000, 25_000])


@settings(max_examples=300, deadline=None)
@given(budgets, seeds)
def test_filling_never_exceeds_the_budget_and_no_larger_scale_would_fit(limit, seed):
    budget = ParameterBudget(SearchSpace.for_budget(limit), limit)
    params = budget.space.draw(np.random.RandomState(seed))

    filled = budget.fill(params)

    assert budget.count(filled) <= limit
    low, high = budget.space.width
    widths = {name: params[name] for name in budget.space.width_params}
    scales = np.geomspace(low / high, high / low, 400)
    candidates = ({n: int(min(max(round(w * s), low), high)) for n, w in widths.items()} for s in scales)
    fitting = [budget.count(filled | c) for c in candidates if budget.fits(filled | c)]
    assert budget.count(filled) >= max(fitting, default=0)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([SearchSpace(), SearchSpace(depth=(3, 4), width=(2, 9))]), seeds)
def test_anything_can_be_filled_down_to_the_smallest_network(space, seed):
    smallest = ParameterBudget(space, 10_000).smallest
    tight = ParameterBudget(space, smallest)

    filled = tight.fill(space.draw(np.random.RandomState(seed)))

    assert tight.count(filled) == smallest


@settings(max_examples=300, deadline=None)
@given(seeds)
def test_no_drawn_network_is_smaller_or_larger_than_the_extremes(seed):
    drawn = BUDGET.count(SPACE.draw(np.random.RandomState(seed)))

    assert BUDGET.smallest <= drawn <= BUDGET.largest


def test_filling_an_impossible_budget_says_so():
    impossible = ParameterBudget(SPACE, 50)

    with pytest.raises(ValueError, match="no network of this space has 50 parameters or fewer"):
        impossible.fill(SPACE.draw(np.random.RandomState(0)))


def test_feasible_share_agrees_with_a_count_by_hand():
    budget = ParameterBudget(SPACE, 8000)
    rng = np.random.RandomState(0)
    counts = [budget.count(SPACE.draw(rng)) for _ in range(2000)]

    feasible, near = budget.feasible_share(draws=2000, seed=0)

    assert feasible == sum(c <= 8000 for c in counts) / 2000
    assert near == sum(7200 < c <= 8000 for c in counts) / 2000


def test_a_definition_survives_its_own_json():
    study_config = StudyConfig(
        budget=8000, space=SearchSpace.for_budget(8000, depth=(3, 5)), seed=4, fill=False
    )

    assert StudyConfig.from_json(study_config.to_json()) == study_config


def test_differences_name_every_field_that_departs():
    stored = StudyConfig(budget=8000, space=SearchSpace(epochs=15))
    asked = StudyConfig(budget=9000, space=SearchSpace(epochs=5), sampler="random")

    names = {d.name: (d.stored, d.requested) for d in stored.differences(asked)}

    assert names == {"budget": (8000, 9000), "epochs": (15, 5), "sampler": ("tpe", "random")}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 99, "budget": 1}'])
def test_what_is_no_definition_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011 - JSON's own error is one too
        StudyConfig.from_json(text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"budget": 0},
        {"budget": 10**12},
        {"budget": 8000, "train_images": 10},
        {"budget": 8000, "train_images": 55_000, "val_images": 10_000},
    ],
)
def test_an_experiment_that_cannot_be_run_is_refused(wrong):
    with pytest.raises(ValueError, match=r"budget|split"):
        StudyConfig(space=SPACE, **wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": 1},
        {"optimizer": SGD(0.0)},
        {"optimizer": Adam(float("nan"))},
        {"label_smoothing": 1.0},
        {"ema_decay": 1.0},
    ],
)
def test_a_training_that_cannot_be_is_refused(wrong):
    good = {"epochs": 1, "batch_size": 64, "optimizer": SGD(0.1)}

    with pytest.raises(ValueError):  # noqa: PT011 - each has a message of its own
        TrainingConfig(**(good | wrong))


def test_augmentation_of_no_strength_leaves_images_as_they_are():
    assert Augmentation.of_strength(0.0).is_identity
    assert not Augmentation.of_strength(0.1).is_identity
