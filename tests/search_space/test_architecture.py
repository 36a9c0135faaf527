"""Closed forms against torch, and the five seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import BASELINES
from mnist_search.training.model import Network, build, count, layer_table
from search_space import Architecture, SearchSpace
from search_space.architecture import (
    INPUT_SHAPE,
    Conv,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool,
)

SPACES = [SearchSpace(), SearchSpace(depth=(3, 9), width=(1, 12)), SearchSpace.for_budget(25_000)]
STATED_PARAMETERS = {
    "seed-000": 8932,
    "seed-001": 7204,
    "seed-002": 25290,
    "seed-003": 15578,
    "seed-004": 11588,
}


@st.composite
def architectures(draw):
    space = draw(st.sampled_from(SPACES))
    params = space.draw(np.random.RandomState(draw(st.integers(0, 2**32 - 1))))
    return space.architecture(params)


@settings(max_examples=1000, deadline=None)
@given(architectures())
def test_closed_form_counts_what_torch_counts(architecture):
    assert architecture.num_params() == count(Network(architecture))


@settings(max_examples=50, deadline=None)
@given(architectures())
def test_every_layer_gives_the_shape_that_the_closed_form_says(architecture):
    x = torch.zeros(2, *INPUT_SHAPE)
    network = Network(architecture).eval()

    for module, cost in zip(network.layers, architecture.costs(), strict=True):
        x = module(x)
        assert tuple(x.shape[1:]) == cost.output_shape


@settings(max_examples=50, deadline=None)
@given(architectures())
def test_multiply_adds_are_half_of_torchs_flops(architecture):
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        Network(architecture).eval()(torch.zeros(1, *INPUT_SHAPE))

    assert architecture.multiply_adds() == counter.get_total_flops() // 2


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_each_seed_has_exactly_the_parameters_that_its_author_states(name):
    recipe = BASELINES[name]

    built = count(build(recipe.architecture, seed=0))

    assert recipe.architecture.num_params() == built == recipe.reported.num_params == STATED_PARAMETERS[name]


def test_rows_of_seed_001_add_up_to_the_total_only_with_the_bias_of_its_last_layer():
    *_, last, _ = BASELINES["seed-001"].architecture.costs()

    assert last.layer == Conv(10, kernel_size=1, bias=True)
    assert last.num_params == 110


def test_layer_rows_of_seed_000_are_those_of_its_text():
    rows = [c.num_params for c in BASELINES["seed-000"].architecture.costs() if isinstance(c.layer, Conv)]

    assert rows == [36, 144, 288, 64, 1152, 2304, 2304, 2304, 160]


def test_layer_table_totals_the_parameters():
    recipe = BASELINES["seed-003"]

    assert "Total params: 15,578" in layer_table(build(recipe.architecture, seed=0))


def test_same_seed_gives_the_same_weights_and_another_seed_others():
    architecture = BASELINES["seed-001"].architecture

    first, again, other = (build(architecture, seed).layers[0].weight for seed in (1, 1, 2))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("layers", "complaint"),
    [
        ((Conv(4),), "ends in shape"),
        ((Flatten(), Conv(4)), "cannot take shape"),
        ((Flatten(), Linear(10), GlobalAvgPool()), "cannot take shape"),
        ((MaxPool(), MaxPool(), MaxPool(), MaxPool(), MaxPool(), Flatten(), Linear(10)), "leaves nothing"),
        ((Conv(4, kernel_size=30), Flatten(), Linear(10)), "leaves nothing"),
    ],
)
def test_a_network_that_cannot_be_is_refused_with_the_layer_that_is_wrong(layers, complaint):
    with pytest.raises(ValueError, match=complaint):
        Architecture(layers)


def test_notation_tells_padding_pooling_transition_and_head():
    params = {
        "depth": 3, "width_1": 4, "width_2": 5, "width_3": 6, "width_4": 7, "width_5": 7, "width_6": 7,
        "width_7": 7, "transition_width": 3, "pool_1": 1, "pool_2": 1, "padding": "valid",
        "transition": True, "head": "gap_hidden",
    }  # fmt: skip

    assert str(SearchSpace().architecture(params)) == "4v-P-3x1-5v-P-6v-G-fc16-fc10"
