"""Blocks, notation and drawing of a network."""

from __future__ import annotations

from dataclasses import replace

import pytest

from experiments import BASELINES
from experiments.defaults import TEMPLATE, TRAINING_PARAMS
from mnist_search.report.network import blocks, drawing, notation
from search_space import SearchSpace
from search_space.architecture import BatchNorm, Conv, Dropout, ReLU

SPACE = SearchSpace()
PARAMS = {**TEMPLATE, **TRAINING_PARAMS, "width_7": 10}


def architecture(**params):
    return SPACE.architecture({**dict.fromkeys(SPACE.width_params, 10), **PARAMS, **params})


def test_convolution_norm_activation_and_dropout_are_one_block():
    first, *_ = blocks(architecture(dropout=0.05))

    assert first.layers.startswith("3x3 convolution")
    assert first.layers.endswith("batch norm, ReLU, dropout 5 %")


@pytest.mark.parametrize("head", ["gap", "gap_hidden", "flatten"])
def test_blocks_hold_every_layer_and_parameter(head):
    network = architecture(head=head)

    rows = blocks(network)

    assert sum(row.num_params for row in rows) == network.num_params()
    assert sum(row.share for row in rows) == pytest.approx(1)
    assert sum(row.multiply_adds for row in rows) == network.multiply_adds()
    assert rows[-1].output_shape == (10,)
    assert len(rows) < len(network.layers) / 2


@pytest.mark.parametrize("name", BASELINES)
def test_blocks_of_a_baseline_hold_every_parameter(name):
    network = BASELINES[name].architecture

    assert sum(row.num_params for row in blocks(network)) == network.num_params()


def test_layers_before_the_first_convolution_are_a_block():
    network = architecture()
    network = replace(network, layers=(BatchNorm(), ReLU(), *network.layers))

    first, second, *_ = blocks(network)

    assert first.layers == "batch norm, ReLU"
    assert second.layers.startswith("3x3 convolution")


def test_notation_explains_the_symbols_of_the_network_once():
    network = architecture(depth=3, padding="valid", transition=True, head="gap")

    symbols = [symbol for symbol, _ in notation(network)]

    assert str(network) == "8v-16v-P-8x1-12v-G-fc10"
    assert symbols == ["Nv", "P", "Nx1", "G", "fcN"]


def test_dropout_of_channels_is_named():
    network = architecture()
    layers = (Conv(3), Dropout(0.1, "channel"), *network.layers)

    first, *_ = blocks(replace(network, layers=layers))

    assert first.layers == "3x3 convolution without padding, dropout 10 % of the channels"


def test_drawing_has_a_box_per_block_that_shrinks_with_the_map():
    network = architecture(padding="valid")

    picture = drawing(network)

    assert [box.below for box in picture.boxes[:2]] == [
        "1 x 28 x 28",
        f"{network.layers[0].out_channels} x 26 x 26",
    ]
    assert len(picture.boxes) == 1 + len(blocks(network))
    heights = [box.height for box in picture.boxes if box.kind.endswith("conv")]
    assert heights == sorted(heights, reverse=True)
    for box in picture.boxes:
        assert 0 <= box.x < box.x + box.width <= picture.width
        assert 0 <= box.y < box.y + box.height <= picture.height
