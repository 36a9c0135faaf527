"""Steps that read tables, and their capture and replay, without a GPU."""

from __future__ import annotations

import pytest
import torch
from fakes import GraphStepsFake
from support import OPTIMIZERS

from experiments import BASELINES
from mnist_search.training.device import ComputeMode
from mnist_search.training.model import REFERENCE_LAYERS, build
from mnist_search.training.optim import EpochSchedule, Schedule
from mnist_search.training.step import ExponentialMovingAverage, TrainStep
from mnist_search.training.steps import STEPS_PER_GRAPH, WARM_UP, Steps
from search_space import TrainingConfig
from search_space.training_config import SGD, Augmentation, OneCycle

N_STEPS = WARM_UP + 2 * STEPS_PER_GRAPH + 2  # the last two are replayed one by one


def train(digits, optimizer, make_steps):
    """Mean losses of two epochs, submissions and averaged weights, under a one-cycle schedule."""
    config = TrainingConfig(
        epochs=2,
        batch_size=1000 // N_STEPS,
        optimizer=optimizer,
        schedule=OneCycle(cycle_momentum=False),
        augmentation=Augmentation.of_strength(0.5),
    )
    network = build(BASELINES["seed-001"].architecture, 0, REFERENCE_LAYERS)
    average = ExponentialMovingAverage(network, 0.9)
    train_step = TrainStep(network, digits, config, ComputeMode(), average)
    steps = make_steps(train_step, torch.Generator().manual_seed(0))
    computed = Schedule(config, N_STEPS)
    torch.manual_seed(0)  # of torch's dropout
    losses, submitted = [], []
    for _ in range(2):
        submitted.append(list(steps.epoch(computed.next_epoch())))
        losses.append(steps.totals[0].item() / N_STEPS)
    return losses, submitted, average.module.state_dict()


@pytest.mark.parametrize(
    "optimizer", [OPTIMIZERS[0], *(pytest.param(other, marks=pytest.mark.slow) for other in OPTIMIZERS[1:])]
)
def test_replayed_steps_equal_the_steps(small_split, optimizer):
    """A graph that froze batch, maps, learning rate, dropout or average would give other losses."""
    losses, one_by_one, weights = train(small_split.train, optimizer, Steps)

    replayed_losses, submitted, replayed_weights = train(small_split.train, optimizer, GraphStepsFake)

    assert one_by_one == [list(range(1, N_STEPS + 1))] * 2
    assert submitted[0] == [1, 2, 3, 16, 29, 30, 31]
    assert submitted[1] == [13, 26, 27, 28, 29, 30, 31]
    assert replayed_losses == losses
    assert losses[1] < losses[0]
    assert all(torch.equal(replayed_weights[name], weights[name]) for name in weights)


def test_an_epoch_visits_every_image_once_and_drops_the_last_batch(small_split):
    seen = []

    class Recorder:
        train = small_split.train
        config = TrainingConfig(epochs=1, batch_size=30, optimizer=SGD(0.1))
        augmentation = None
        learning_rate = torch.zeros(())

        def __call__(self, batch, maps):
            seen.extend(batch.tolist())
            assert maps is None
            rates.append(self.learning_rate.item())
            return torch.ones(2)

    rates: list[float] = []
    steps = Steps(Recorder(), torch.Generator().manual_seed(0))

    for _ in steps.epoch(EpochSchedule([float(i) for i in range(33)], None)):
        pass

    assert len(set(seen)) == len(seen) == 990
    assert rates == [float(i) for i in range(33)]
    assert steps.totals.tolist() == [33, 33]


def test_momentum_of_each_step_is_set(small_split):
    config = TrainingConfig(epochs=1, batch_size=333, optimizer=SGD(0.1))
    step = TrainStep(build(BASELINES["seed-001"].architecture, 0), small_split.train, config, ComputeMode())
    (group,) = step.optimizer.param_groups
    schedule = EpochSchedule([0.1] * 3, [0.9, 0.8, 0.7])

    momenta = [group["momentum"] for _ in Steps(step, torch.Generator()).epoch(schedule)]

    assert momenta == [0.9, 0.8, 0.7]
