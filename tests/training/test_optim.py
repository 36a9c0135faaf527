"""Optimizers and learning-rate schedules."""

from __future__ import annotations

import math

import pytest
import torch
from support import OPTIMIZERS
from torch import nn

from mnist_search.training.optim import Schedule, cycles_momentum, make_optimizer
from search_space import TrainingConfig
from search_space.training_config import SGD, Adam, Constant, Cosine, OneCycle, Plateau, Step


def make_schedule(optimizer, schedule, epochs, steps, restarts=()):
    config = TrainingConfig(
        epochs=epochs, batch_size=2, optimizer=optimizer, schedule=schedule, restarts=restarts
    )
    return Schedule(config, steps)


def rates(schedule, lr=0.1, epochs=4, steps=5, accuracies=(0.5,) * 4, restarts=()):
    """The learning rate of every step."""
    computed = make_schedule(SGD(lr), schedule, epochs, steps, restarts)
    values = []
    for accuracy in accuracies:
        values += computed.next_epoch().rates
        computed.after_epoch(accuracy)
    return values


def test_constant_schedule_keeps_the_rate():
    assert rates(Constant()) == [0.1] * 20


def test_one_cycle_rises_to_the_peak_and_ends_near_zero():
    values = rates(OneCycle(pct_start=0.25, div_factor=10, final_div_factor=100))

    assert values[0] == pytest.approx(0.01)
    assert max(values) == pytest.approx(0.1, rel=0.05)
    assert values.index(max(values)) in {4, 5}
    assert values[-1] < 0.003


def test_cosine_falls_from_the_peak_along_half_a_cosine():
    expected = [0.05 * (1 + math.cos(math.pi * k / 20)) for k in range(20)]

    assert rates(Cosine()) == pytest.approx(expected)


def test_step_schedule_drops_by_gamma_after_every_step_size_epochs():
    expected = [0.1] * 10 + [0.01] * 10

    assert rates(Step(step_size=2, gamma=0.1)) == pytest.approx(expected)


def test_plateau_drops_when_accuracy_stalls_for_longer_than_patience():
    expected = [0.1] * 15 + [0.01] * 5

    assert rates(Plateau(patience=1), accuracies=(0.5, 0.5, 0.5, 0.5)) == pytest.approx(expected)
    assert rates(Plateau(patience=1), accuracies=(0.5, 0.6, 0.7, 0.8)) == [0.1] * 20


@pytest.mark.parametrize("schedule", [OneCycle(), OneCycle(cycle_momentum=False), Cosine(), Constant()])
def test_restarted_schedule_consists_of_complete_ones(schedule):
    parts = [rates(schedule, epochs=n, accuracies=(0.5,) * n) for n in (1, 3)]

    assert rates(schedule, epochs=4, restarts=(1,)) == parts[0] + parts[1]


def test_restarted_step_schedule_drops_after_the_same_share_of_every_part():
    values = rates(Step(step_size=4), epochs=10, steps=1, accuracies=(0.5,) * 10, restarts=(5,))

    assert values == pytest.approx(2 * [0.1, 0.1, 0.01, 0.01, 0.001])


def test_restarted_plateau_forgets_earlier_accuracies():
    values = rates(Plateau(patience=0), steps=1, accuracies=(0.9, 0.5, 0.5, 0.6), restarts=(2,))

    assert values == pytest.approx([0.1, 0.1, 0.1, 0.1])


def test_decoupled_adam_is_adamw():
    weight = [nn.Parameter(torch.zeros(1))]

    assert type(make_optimizer(weight, Adam(0.1, decoupled=True))) is torch.optim.AdamW
    assert type(make_optimizer(weight, Adam(0.1))) is torch.optim.Adam


@pytest.mark.parametrize("config", OPTIMIZERS)
def test_optimizer_follows_the_learning_rate_in_a_tensor(config):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2, 20, generator=generator)
    gradients = torch.randn(40, 2, 20, generator=generator)

    expected, actual = (optimized(start, gradients, config, has_tensor=has) for has in (False, True))

    torch.testing.assert_close(actual, expected)
    assert (expected - start).abs().min() > 0


def optimized(start, gradients, config, *, has_tensor):
    """The weights after a step per gradient, under a one-cycle schedule."""
    weights = [nn.Parameter(row.clone()) for row in start]
    lr = torch.zeros(()) if has_tensor else None
    optimizer = make_optimizer(weights, config, lr)
    schedule = make_schedule(config, OneCycle(cycle_momentum=False), 1, len(gradients))
    for step_gradients, rate in zip(gradients, schedule.next_epoch().rates, strict=True):
        for weight, gradient in zip(weights, step_gradients, strict=True):
            weight.grad = gradient.clone()
        if has_tensor:
            lr.fill_(rate)
        else:
            optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    return torch.stack(weights).detach()


@pytest.mark.parametrize("config", OPTIMIZERS)
def test_one_cycle_lowers_the_momentum_at_the_peak_if_it_cycles(config):
    cycled = make_schedule(config, OneCycle(), 1, 20).next_epoch()
    constant = make_schedule(config, OneCycle(cycle_momentum=False), 1, 20).next_epoch()

    assert cycled.momenta[0] == 0.95
    assert min(cycled.momenta) == pytest.approx(0.85, abs=0.005)
    assert abs(cycled.momenta.index(min(cycled.momenta)) - cycled.rates.index(max(cycled.rates))) <= 1
    assert cycled.rates == constant.rates
    assert constant.momenta is None
    assert [cycles_momentum(s) for s in (OneCycle(), OneCycle(cycle_momentum=False), Cosine())] == [1, 0, 0]
