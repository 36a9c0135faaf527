"""Ranges of params: a part of the search space, as text, as TOML and in a StudyConfig."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import StudyConfig
from search_space import ParameterBudget, SearchSpace
from search_space.ranges import from_toml, in_words, parse, to_text, to_toml

WIDEST = SearchSpace.widest().distributions
NARROW = {
    "depth": (4, 5), "width_1": 8, "width_2": (10, 12), "head": ["flatten", "gap_hidden"], "transition": True,
    "dropout": (0, 0.05), "optimizer": "sgd", "batch_size": (32, 128), "sgd_lr": 0.1,
}  # fmt: skip
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture
def space():
    return SearchSpace.for_budget(8000, params=NARROW)


def test_space_has_the_ranges_and_the_other_params_whole(space):
    whole = SearchSpace(depth=(4, 5), width=(4, 30))

    assert space.depth == (4, 5)
    assert list(space.distributions) == list(whole.distributions)
    differing = {n for n, d in space.distributions.items() if d != whole.distributions[n]}
    assert differing == set(space.params) == NARROW.keys() - {"depth"}
    assert in_words(space.distributions["batch_size"]) == "32, 128"
    assert in_words(space.distributions["dropout"]) == "0 to 0.05 in steps of 0.01"
    assert in_words(space.distributions["width_1"]) == "8"


def test_range_that_is_whole_is_no_range():
    space = SearchSpace(params={"optimizer": ("adamw", "sgd"), "dropout": (0, 0.1), "pool_1": [1, 3]})

    assert space == SearchSpace()
    assert space.params == {}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"luck": 1}, "no param 'luck'; it has depth, width_1"),
        ({"width_8": 4}, "no param 'width_8'; similar ones are width_7"),
        ({"batch size": 64}, "no param 'batch size'; similar ones are batch_size"),
        ({"optimizer": "lion"}, "optimizer takes sgd, adamw, not lion"),
        ({"optimizer": ()}, "optimizer takes sgd, adamw, not nothing"),
        ({"width_1": []}, "width_1 takes 4 to 30, not nothing"),
        ({"transition": 1}, "transition takes true, false, not 1"),
        ({"width_1": True}, "width_1 takes 4 to 30, not true"),
        ({"width_1": 8.5}, "width_1 takes 4 to 30, not 8.5"),
        ({"width_1": (2, 4)}, "width_1 takes 4 to 30, not 2:4"),
        ({"width_1": (9, 8)}, "width_1 takes 4 to 30, not 9:8"),
        ({"width_1": (4, 5, 6)}, "width_1 takes 4 to 30, not 4:5:6"),
        ({"dropout": (0, 0.055)}, "dropout takes 0 to 0.1 in steps of 0.01, not 0:0.055"),
        ({"sgd_lr": "fast"}, "sgd_lr takes 0.01 to 0.4 on a log scale, not fast"),
        ({"sgd_lr": (0.1, float("nan"))}, "sgd_lr takes 0.01 to 0.4 on a log scale, not 0.1:nan"),
        ({"dropout": (0, float("inf"))}, "dropout takes"),
    ],
)
def test_impossible_range_says_what_is_possible(params, message):
    with pytest.raises(ValueError, match=message):
        SearchSpace(params=params)


@pytest.mark.parametrize("depth", ["deep", (), (4, 5, 6), 2, (3, 13), 4.5])
def test_range_of_the_depth_is_checked(depth):
    with pytest.raises(ValueError, match="depth takes 3 to 12, not "):
        SearchSpace.for_budget(8000, params={"depth": depth})


def test_depth_that_is_given_twice_is_refused():
    with pytest.raises(ValueError, match="depth takes one range"):
        SearchSpace.for_budget(8000, depth=(3, 7), params={"depth": 4})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer=sgd", ("optimizer", ("sgd",))),
        ("schedule=one_cycle,cosine", ("schedule", ("one_cycle", "cosine"))),
        ("dropout=0:0.1", ("dropout", (0.0, 0.1))),
        ("width_1=8", ("width_1", (8,))),
        ("transition=false", ("transition", (False,))),
        ("batch_size=32,64", ("batch_size", (32, 64))),
    ],
)
def test_text_is_parsed(text, expected):
    assert parse(WIDEST, text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("width_1", "a range is NAME=VALUE"),
        ("luck=1", "no param 'luck'"),
        ("optimizer=sgd,lion", "optimizer takes sgd, adamw, not sgd,lion"),
        ("width_1=", "width_1 takes 1 to 512, not "),
        ("width_1=a:b", "width_1 takes 1 to 512, not a:b"),
        ("width_1=1,2", "width_1 takes 1 to 512, not 1,2"),
    ],
)
def test_text_that_is_no_range_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse(WIDEST, text)


def test_ranges_as_text_and_as_toml_make_the_same_space(space):
    texts = [f"{name}={to_text(space.distributions[name])}" for name in space.params]

    assert SearchSpace(depth=(4, 5), params=dict(parse(WIDEST, text) for text in texts)) == space
    assert SearchSpace.for_budget(8000, params=from_toml(to_toml(space.distributions))) == space


@pytest.mark.parametrize("text", ["width_1 = ", "[[params]"])
def test_broken_toml_is_refused(text):
    with pytest.raises(ValueError, match="not a TOML document"):
        from_toml(text)


@settings(max_examples=100, deadline=None)
@given(seeds)
def test_scaled_proposals_stay_within_their_ranges(seed):
    space = SearchSpace.for_budget(8000, params=NARROW)
    budget = ParameterBudget(space, 8000)
    params = budget.space.draw(np.random.RandomState(seed))

    scaled = budget.scale_to_budget(params)

    assert budget.fits(scaled)
    assert all(d._contains(d.to_internal_repr(scaled[n])) for n, d in space.architecture_params.items())


@settings(max_examples=100, deadline=None)
@given(seeds, st.sampled_from([NARROW, {"head": "flatten"}, {"transition": True, "depth": (5, 6)}]))
def test_scale_to_budget_reaches_the_smallest_network_of_the_ranges(seed, params):
    space = SearchSpace.for_budget(8000, params=params)
    tight = ParameterBudget(space, space.smallest)

    scaled = tight.scale_to_budget(space.draw(np.random.RandomState(seed)))

    assert tight.count(scaled) == space.smallest
    assert all(d._contains(d.to_internal_repr(scaled[n])) for n, d in space.architecture_params.items())


def test_number_of_architectures_counts_the_ranges():
    fixed = {"width_1": 4, "width_2": 5, "width_3": (6, 7), "pool_1": 1, "pool_2": (0, 1), "padding": "same"}
    space = SearchSpace(depth=(3, 3), params=fixed | {"head": "gap", "transition": False})

    assert space.num_architectures == 4
    assert SearchSpace(depth=(3, 3), params=fixed | {"head": "gap"}).num_architectures == 4 * (27 + 1)


def test_space_is_finite_without_a_continuous_param():
    discrete = {"optimizer": "sgd", "sgd_lr": 0.1, "weight_decay": 1e-4}

    assert SearchSpace(params=discrete).is_finite
    assert not SearchSpace(params=discrete | {"optimizer": ("sgd", "adamw")}).is_finite
    assert not SearchSpace().is_finite


def test_study_config_stores_its_ranges():
    config = StudyConfig.for_budget(8000, params=NARROW)

    assert StudyConfig.from_json(config.to_json()) == config
    assert "params" not in StudyConfig.for_budget(8000).to_json()  # an earlier version reads it


def test_differences_name_the_ranges():
    sgd, other = (StudyConfig.for_budget(8000, params={"optimizer": o}) for o in ("sgd", "adamw"))

    assert sgd.differences(other) == {"optimizer": ("sgd", "adamw")}
    assert sgd.differences(StudyConfig.for_budget(8000)) == {"optimizer": ("sgd", "unrestricted")}
    assert StudyConfig.for_budget(8000).differences(sgd) == {"optimizer": ("unrestricted", "sgd")}


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "mutation"])
def test_samplers_propose_within_the_ranges(sampler):
    from mnist_search.search.samplers import sampler_for_trial

    config = StudyConfig.for_budget(8000, params=NARROW, sampler=sampler)
    study = optuna.create_study(direction="maximize")
    for number in range(13):
        study.sampler = sampler_for_trial(config, number)
        trial = study.ask()
        config.space.suggest(trial)
        study.tell(trial, number / 100)

    assert all(trial.distributions == config.space.distributions for trial in study.trials)
    assert all(config.parameter_budget.fits(trial.params) for trial in study.trials)
    assert {trial.params["width_1"] for trial in study.trials} == {8}
    assert {trial.params["optimizer"] for trial in study.trials} == {"sgd"}
