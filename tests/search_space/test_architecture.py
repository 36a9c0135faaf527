"""Closed forms against torch, and the five baselines."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import BASELINES
from mnist_search.training.model import Network, build, count
from search_space import Architecture, SearchSpace
from search_space.architecture import INPUT_SHAPE, Conv, Flatten, GlobalAvgPool, Linear, MaxPool, ReLU

SPACES = [SearchSpace(), SearchSpace(depth=(3, 9), width=(1, 12)), SearchSpace.for_budget(25_000)]
REPORTED_PARAMS = {
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
def test_num_params_equals_torchs_count(architecture):
    assert architecture.num_params() == count(Network(architecture))


@settings(max_examples=50, deadline=None)
@given(architectures())
def test_output_shapes_equal_torchs(architecture):
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
def test_baseline_has_the_reported_number_of_parameters(name):
    recipe = BASELINES[name]

    built = count(build(recipe.architecture, seed=0))

    assert recipe.architecture.num_params() == built == recipe.reported.num_params == REPORTED_PARAMS[name]


def test_last_convolution_of_seed_001_has_a_bias():
    *_, last, _ = BASELINES["seed-001"].architecture.costs()

    assert last.layer == Conv(10, kernel_size=1, bias=True)
    assert last.num_params == 110


def test_layer_costs_of_seed_000_equal_the_reported_ones():
    rows = [c.num_params for c in BASELINES["seed-000"].architecture.costs() if isinstance(c.layer, Conv)]

    assert rows == [36, 144, 288, 64, 1152, 2304, 2304, 2304, 160]


def test_layer_table_has_a_row_per_layer_and_the_totals_of_torchsummary():
    architecture = Architecture((Conv(16, bias=True), ReLU(), GlobalAvgPool(), Flatten(), Linear(10)))

    _, _, *lines = architecture.layer_table().splitlines()

    assert lines[0].split() == ["Conv-1", "[16,", "26,", "26]", "160", "97,344", "43,264"]
    assert lines[4].split() == ["Linear-5", "[10]", "170", "160", "40"]
    assert [line for line in lines if ":" in line] == [
        "Total params: 330",
        "Trainable params: 330",
        "Total multiply-adds: 97,504",
        "Input size (MB): 0.003",
        "Forward/backward pass size (MB): 0.165",
        "Params size (MB): 0.001",
        "Estimated total size (MB): 0.170",
    ]


def test_seed_determines_the_initial_weights():
    architecture = BASELINES["seed-001"].architecture

    first, again, other = (build(architecture, seed).layers[0].weight for seed in (1, 1, 2))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((Conv(4),), "has output shape"),
        ((Flatten(), Conv(4)), "does not accept shape"),
        ((Flatten(), Linear(10), GlobalAvgPool()), "does not accept shape"),
        (
            (MaxPool(), MaxPool(), MaxPool(), MaxPool(), MaxPool(), Flatten(), Linear(10)),
            "has no output for shape",
        ),
        ((Conv(4, kernel_size=30), Flatten(), Linear(10)), "has no output for shape"),
    ],
)
def test_invalid_architecture_is_rejected_and_the_error_names_the_layer(layers, message):
    with pytest.raises(ValueError, match=message):
        Architecture(layers)


def test_notation_shows_padding_pooling_transition_and_head():
    params = {
        "depth": 3, "width_1": 4, "width_2": 5, "width_3": 6, "width_4": 7, "width_5": 7, "width_6": 7,
        "width_7": 7, "transition_width": 3, "pool_1": 1, "pool_2": 1, "padding": "valid",
        "transition": True, "head": "gap_hidden",
    }  # fmt: skip

    assert str(SearchSpace().architecture(params)) == "4v-P-3x1-5v-P-6v-G-fc16-fc10"
