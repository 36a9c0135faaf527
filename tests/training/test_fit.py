"""Training on real digits: accuracy, divergence, reproducibility."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

from experiments import BASELINES
from mnist_search.training.device import ComputeMode
from mnist_search.training.evaluate import evaluate
from mnist_search.training.fit import STEPS_BETWEEN_CHECKS, Diverged, fit
from mnist_search.training.model import REFERENCE_LAYERS, build
from search_space import TrainingConfig
from search_space.training_config import SGD, Adam, Augmentation, Constant, OneCycle, Plateau

ARCHITECTURE = BASELINES["seed-001"].architecture
CONFIG = TrainingConfig(epochs=2, batch_size=64, optimizer=Adam(0.01), schedule=OneCycle())


def train(split, config=CONFIG, **options):
    network = build(ARCHITECTURE, seed=0)
    curve = list(fit(network, split.train, split.val, config, **({"seed": 0} | options)))
    return network, curve


def test_six_epochs_on_a_thousand_digits_reach_85_percent(small_split):
    _, curve = train(small_split, replace(CONFIG, epochs=6, batch_size=32))

    assert [metrics.epoch for metrics in curve] == [1, 2, 3, 4, 5, 6]
    assert curve[-1].val_accuracy > 0.85
    assert curve[-1].train_loss < curve[0].train_loss
    assert all(min(metrics.seconds, metrics.samples_per_second, metrics.timestamp) > 0 for metrics in curve)


def test_last_metrics_equal_an_evaluation_of_the_network(small_split):
    network, curve = train(small_split)

    evaluation = evaluate(network, small_split.val)

    assert evaluation.accuracy == curve[-1].val_accuracy
    assert evaluation.loss == curve[-1].val_loss


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_seed_gives_bit_equal_weights(small_split, precision):
    config = replace(CONFIG, augmentation=Augmentation.of_strength(1.0))
    first, _ = train(small_split, config, compute_mode=ComputeMode(precision))
    second, _ = train(small_split, config, compute_mode=ComputeMode(precision))
    other, _ = train(small_split, config, compute_mode=ComputeMode(precision), seed=1)

    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.layers[0].weight, other.layers[0].weight)


def test_both_memory_formats_train_to_the_same_loss(small_split):
    config = TrainingConfig(epochs=1, batch_size=50, optimizer=SGD(0.01))
    network = build(ARCHITECTURE, 0, REFERENCE_LAYERS)
    losses = []
    for channels_last in (True, False):
        compute_mode = ComputeMode(channels_last=channels_last)
        torch.manual_seed(0)  # of torch's dropout
        (metrics,) = fit(
            deepcopy(network), small_split.train, small_split.val, config, seed=0, compute_mode=compute_mode
        )
        losses.append(metrics.val_loss)

    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize(("lr", "factor"), [(1e6, None), (0.1, float("nan")), (0.1, float("inf"))])
def test_fit_stops_a_diverging_training_within_fifty_steps_with_the_reason(small_split, lr, factor):
    steps = 0

    class Diverging(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = build(ARCHITECTURE, seed=0)

        def forward(self, x):
            nonlocal steps
            steps += self.training
            return self.inner(x) * factor if factor and steps == 30 else self.inner(x)

    config = replace(CONFIG, epochs=20, batch_size=16, optimizer=SGD(lr), schedule=Constant())

    with pytest.raises(Diverged, match=r"loss .* at step"):
        list(fit(Diverging(), small_split.train, small_split.val, config, seed=0))
    assert steps <= 30 + 2 * STEPS_BETWEEN_CHECKS <= 80


def test_fit_checks_a_nan_loss_before_it_calls_the_checkpoint(small_split):
    config = TrainingConfig(epochs=1, batch_size=10, optimizer=SGD(1e30))
    calls = []

    with pytest.raises(Diverged, match=f"step {STEPS_BETWEEN_CHECKS} of epoch 1"):
        train(small_split, config, checkpoint=lambda: calls.append(1))
    assert calls == []


def test_fit_stops_on_an_exception_of_the_checkpoint(small_split):
    calls = 0

    def stop():
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(small_split, replace(CONFIG, batch_size=16), checkpoint=stop)
    assert calls == 2


def test_fit_evaluates_and_keeps_the_averaged_weights(small_split):
    averaged, curve = train(small_split, replace(CONFIG, ema_decay=0.9))
    plain, _ = train(small_split)

    assert evaluate(averaged, small_split.val).accuracy == curve[-1].val_accuracy
    assert not torch.equal(averaged.layers[0].weight, plain.layers[0].weight)


def test_fit_without_a_validation_set_yields_no_validation_metrics(small_split):
    network = build(ARCHITECTURE, seed=0)
    plateau = replace(CONFIG, schedule=Plateau())

    curve = list(fit(network, small_split.train, None, plateau, seed=0))

    assert [(metrics.val_loss, metrics.val_accuracy) for metrics in curve] == [(None, None)] * 2


class LargeLogits(torch.nn.Module):
    """Trains like a linear layer, and is confidently wrong, or not a number, in evaluation."""

    def __init__(self, factor):
        super().__init__()
        self.linear, self.factor = torch.nn.Linear(784, 10), factor

    def forward(self, pixels):
        logits = self.linear(pixels.flatten(1))
        return logits if self.training else -self.factor * logits


def test_large_validation_loss_is_no_divergence(small_split):
    config = TrainingConfig(epochs=1, batch_size=50, optimizer=SGD(0.01))

    (metrics,) = fit(LargeLogits(1e4), small_split.train, small_split.val, config, seed=0)

    assert 1000 < metrics.val_loss < math.inf


def test_validation_loss_that_is_not_finite_is_a_divergence(small_split):
    config = TrainingConfig(epochs=1, batch_size=50, optimizer=SGD(0.01))

    with pytest.raises(Diverged, match="loss nan at validation after epoch 1"):
        list(fit(LargeLogits(math.nan), small_split.train, small_split.val, config, seed=0))
