"""Capture and replay of a training step, and the asynchronous loss check, without a GPU."""

from __future__ import annotations

import pytest
import torch
from fakes import GraphReplayFake
from support import OPTIMIZERS

from experiments import BASELINES
from mnist_search.training.cuda_graph import AsyncLossMonitor, CudaGraphStep
from mnist_search.training.device import ComputeMode
from mnist_search.training.model import REFERENCE_LAYERS, build
from mnist_search.training.optim import LearningRate
from mnist_search.training.step import ExponentialMovingAverage, TrainStep
from search_space import TrainingConfig
from search_space.training_config import SGD, Augmentation, OneCycle


def train(digits, optimizer, make_step, steps=20):
    """Losses of the steps and averaged weights, under a one-cycle schedule."""
    config = TrainingConfig(
        epochs=1,
        batch_size=50,
        optimizer=optimizer,
        schedule=OneCycle(),
        augmentation=Augmentation.of_strength(0.5),
    )
    network = build(BASELINES["seed-001"].architecture, 0, REFERENCE_LAYERS)
    average = ExponentialMovingAverage(network, 0.9)
    train_step = TrainStep(network, digits, config, ComputeMode(graph=True), average)
    rate = LearningRate(train_step.optimizer, config.schedule, epochs=1, steps_per_epoch=steps)
    step = make_step(train_step)
    torch.manual_seed(0)
    losses = []
    for batch in torch.arange(50 * steps).split(50):
        train_step.optimizer.sync_hyperparameters()
        losses.append(step(batch)[0].item())
        rate.after_step()
    return losses, average.module.state_dict()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_replayed_step_equals_the_captured_step(small_split, optimizer):
    """A graph that froze schedule, augmentation, dropout or average would give other losses."""
    losses, weights = train(small_split.train, optimizer, lambda step: step)

    replayed_losses, replayed_weights = train(small_split.train, optimizer, GraphReplayFake)

    assert replayed_losses == losses
    assert len(set(losses)) == len(losses)
    assert all(torch.equal(replayed_weights[name], weights[name]) for name in weights)


def test_graph_step_rejects_an_optimizer_that_is_not_capturable(small_split):
    network = build(BASELINES["seed-001"].architecture, 0)
    config = TrainingConfig(epochs=1, batch_size=50, optimizer=SGD(0.05))

    with pytest.raises(TypeError, match="would freeze this optimizer's learning rate"):
        CudaGraphStep(TrainStep(network, small_split.train, config, ComputeMode()))


def test_loss_monitor_checks_the_mean_since_the_last_submission():
    checks = []
    monitor = AsyncLossMonitor(lambda loss, position: checks.append((loss, position)))

    monitor.submit(torch.tensor(20.0), 10, "step 10")
    monitor.submit(torch.tensor(50.0), 15, "step 15")
    monitor.flush()

    assert checks == [(2.0, "step 10"), (6.0, "step 15")]
