"""Networks from architectures, and their weights as safetensors."""

from __future__ import annotations

import pytest
import torch

from experiments import BASELINES
from mnist_search.training.model import REFERENCE_LAYERS, build, count, load_network, to_safetensors


@pytest.mark.parametrize("name", BASELINES)
def test_load_network_restores_the_outputs_of_the_saved_network(name):
    architecture = BASELINES[name].architecture
    network = build(architecture, seed=0).eval()
    pixels = torch.rand(4, 1, 28, 28)

    loaded = load_network(architecture, to_safetensors(network))

    assert not loaded.training
    assert count(loaded) == architecture.num_params()
    assert torch.equal(loaded(pixels), network(pixels))


def test_to_safetensors_does_not_depend_on_memory_format_or_layer_factory():
    architecture = BASELINES["seed-001"].architecture
    network = build(architecture, seed=0, layer_factory=REFERENCE_LAYERS)

    assert to_safetensors(
        build(architecture, seed=0).to(memory_format=torch.channels_last)
    ) == to_safetensors(network)
