"""A training step runs on the device without waiting for it."""

from __future__ import annotations

import pytest
import torch
from fakes import OperationRecorder
from support import OPTIMIZERS
from torch._subclasses.fake_tensor import FakeTensorMode

from experiments import BASELINES
from mnist_search.data.dataset import Digits
from mnist_search.training.device import ComputeMode
from mnist_search.training.model import REFERENCE_LAYERS, Network, build
from mnist_search.training.step import ExponentialMovingAverage, TrainStep
from search_space import TrainingConfig
from search_space.training_config import Augmentation

SYNCHRONISING = {"aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::nonzero"}
"""Operations that wait for the device."""


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_step_does_not_wait_for_the_device(small_split, optimizer):
    config = TrainingConfig(
        epochs=1, batch_size=50, optimizer=optimizer, augmentation=Augmentation.of_strength(0.5)
    )
    network = build(BASELINES["seed-001"].architecture, 0, REFERENCE_LAYERS)
    average = ExponentialMovingAverage(network, 0.9)
    step = TrainStep(network, small_split.train, config, ComputeMode("bf16"), average)
    maps = step.augmentation.draw(100, torch.Generator().manual_seed(0))

    with OperationRecorder() as operations:
        for batch in torch.arange(100).split(50):
            step(batch, maps[batch])

    assert "aten::convolution_backward" in operations.names
    assert not operations.names & SYNCHRONISING


@pytest.mark.parametrize("name", BASELINES)
def test_forward_pass_keeps_all_tensors_on_the_device(name):
    """Fake tensors refuse to mix devices, so no GPU is needed."""
    recipe = BASELINES[name]
    with FakeTensorMode(), torch.device("cuda"):
        network = Network(recipe.architecture)
        train = Digits(torch.empty(200, 1, 28, 28, dtype=torch.uint8), torch.empty(200, dtype=torch.int64))
        step = TrainStep(network, train, recipe.training, ComputeMode())

        maps = step.augmentation and torch.empty(128, 2, 3)
        loss, correct = step.forward(torch.empty(128, dtype=torch.int64), maps)

    assert loss.device.type == correct.device.type == "cuda"
