"""Training on real digits: learning, judging, diverging, repeating."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from support import make_split
from torch import nn

from experiments import BASELINES
from mnist_search.training.augment import _affine_matrices, augment
from mnist_search.training.device import CPU, ComputeMode
from mnist_search.training.fit import STEPS_BETWEEN_CHECKS, Diverged, confusion_matrix, evaluate, fit
from mnist_search.training.model import build
from mnist_search.training.optim import LearningRate, make_optimizer
from search_space import TrainingConfig
from search_space.training_config import (
    SGD,
    Adam,
    Augmentation,
    Constant,
    Cosine,
    OneCycle,
    Plateau,
    Step,
)

ARCHITECTURE = BASELINES["seed-001"].architecture
CONFIG = TrainingConfig(epochs=2, batch_size=64, optimizer=Adam(0.01), schedule=OneCycle())


def trained(small_split, config=CONFIG, **changes):
    network = build(ARCHITECTURE, seed=0)
    records = list(fit(network, small_split.train, small_split.val, config, **({"seed": 0} | changes)))
    return network, records


def test_six_epochs_on_a_thousand_digits_learn_most_of_them(small_split):
    _, records = trained(small_split, replace(CONFIG, epochs=6, batch_size=32))

    assert [r.epoch for r in records] == [1, 2, 3, 4, 5, 6]
    assert records[-1].val_accuracy > 0.85
    assert records[-1].train_loss < records[0].train_loss
    assert all(r.seconds > 0 and r.samples_per_second > 0 for r in records)


def test_the_last_record_is_what_a_fresh_evaluation_gives(small_split):
    network, records = trained(small_split)

    judged = evaluate(network, small_split.val)

    assert judged.accuracy == records[-1].val_accuracy
    assert judged.loss == records[-1].val_loss


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_seed_gives_bit_equal_weights(small_split, precision):
    config = replace(CONFIG, augmentation=Augmentation.of_strength(1.0))
    first, _ = trained(small_split, config, compute_mode=ComputeMode(precision))
    again, _ = trained(small_split, config, compute_mode=ComputeMode(precision))
    other, _ = trained(small_split, config, compute_mode=ComputeMode(precision), seed=1)

    for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.layers[0].weight, other.layers[0].weight)


def test_validation_counts_every_image(digits):
    network = build(ARCHITECTURE, seed=0)
    odd = make_split(digits, train=1000, val=2503, seed=0).val

    judged = evaluate(network, odd)

    assert judged.predictions.shape == (2503,)
    assert judged.accuracy == (judged.predictions == odd.labels).float().mean(dtype=torch.float64).item()


def test_confusion_matrix_counts_every_image_once(small_split):
    network, _ = trained(small_split)
    judged = evaluate(network, small_split.val)

    matrix = confusion_matrix(judged.predictions, small_split.val.labels)

    assert matrix.sum() == len(small_split.val)
    assert matrix.trace() == round(judged.accuracy * len(small_split.val))
    assert torch.equal(matrix.sum(1), torch.bincount(small_split.val.labels, minlength=10))


@pytest.mark.parametrize(("lr", "poison"), [(1e6, None), (0.1, float("nan")), (0.1, float("inf"))])
def test_a_training_that_diverges_ends_within_fifty_steps_with_the_reason(small_split, lr, poison):
    steps = 0

    class Poisoned(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = build(ARCHITECTURE, seed=0)

        def forward(self, x):
            nonlocal steps
            steps += self.training
            return self.inner(x) * poison if poison and steps == 30 else self.inner(x)

    config = replace(CONFIG, epochs=20, batch_size=16, optimizer=SGD(lr), schedule=Constant())

    with pytest.raises(Diverged, match=r"loss .* at step"):
        list(fit(Poisoned(), small_split.train, small_split.val, config, seed=0))
    assert steps <= 30 + 2 * STEPS_BETWEEN_CHECKS <= 80


def test_what_a_checkpoint_raises_ends_the_training(small_split):
    calls = 0

    def stop():
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(small_split, replace(CONFIG, batch_size=16), checkpoint=stop)
    assert calls == 2


def test_the_average_of_weights_is_what_is_judged_and_kept(small_split):
    config = replace(CONFIG, ema_decay=0.9)

    network, records = trained(small_split, config)
    plain, _ = trained(small_split)

    assert evaluate(network, small_split.val).accuracy == records[-1].val_accuracy
    assert not torch.equal(network.layers[0].weight, plain.layers[0].weight)


def test_training_without_a_validation_set_tells_no_validation(small_split):
    network = build(ARCHITECTURE, seed=0)
    plateau = replace(CONFIG, schedule=Plateau())

    records = list(fit(network, small_split.train, None, plateau, seed=0))

    assert [(r.val_loss, r.val_accuracy) for r in records] == [(None, None)] * 2


def rates(schedule, lr=0.1, epochs=4, steps=5, accuracies=(0.5,) * 4):
    weight = nn.Parameter(torch.zeros(1))
    optimizer = make_optimizer([weight], SGD(lr))
    rate = LearningRate(optimizer, schedule, epochs, steps)
    seen = []
    for epoch in range(epochs):
        for _ in range(steps):
            seen.append(rate.value)
            weight.grad = torch.zeros(1)
            optimizer.step()
            rate.after_step()
        rate.after_epoch(accuracies[epoch])
    return seen


def test_constant_schedule_never_moves():
    assert rates(Constant()) == [0.1] * 20


def test_one_cycle_rises_to_the_peak_and_ends_near_zero():
    seen = rates(OneCycle(pct_start=0.25, div_factor=10, final_div_factor=100))

    assert seen[0] == pytest.approx(0.01)
    assert max(seen) == pytest.approx(0.1, rel=0.05)
    assert seen.index(max(seen)) in {4, 5}
    assert seen[-1] < 0.003


def test_cosine_falls_from_the_peak_along_half_a_cosine():
    expected = [0.05 * (1 + math.cos(math.pi * k / 20)) for k in range(20)]

    assert rates(Cosine()) == pytest.approx(expected)


def test_step_schedule_drops_by_gamma_after_every_step_size_epochs():
    expected = [0.1] * 10 + [0.01] * 10

    assert rates(Step(step_size=2, gamma=0.1)) == pytest.approx(expected)


def test_plateau_drops_once_accuracy_has_stalled_for_longer_than_patience():
    expected = [0.1] * 15 + [0.01] * 5

    assert rates(Plateau(patience=1), accuracies=(0.5, 0.5, 0.5, 0.5)) == pytest.approx(expected)
    assert rates(Plateau(patience=1), accuracies=(0.5, 0.6, 0.7, 0.8)) == [0.1] * 20


def test_decoupled_adam_is_adamw():
    weight = [nn.Parameter(torch.zeros(1))]

    assert type(make_optimizer(weight, Adam(0.1, decoupled=True))) is torch.optim.AdamW
    assert type(make_optimizer(weight, Adam(0.1))) is torch.optim.Adam


def test_affine_maps_stay_within_their_ranges():
    torch.manual_seed(0)
    how = Augmentation(rotation=20, translation=(0.1, 0.3), scale=(0.8, 1.25), shear=5)

    theta = _affine_matrices(20_000, how, CPU)

    zoom = torch.linalg.det(theta[:, :, :2]).sqrt()
    assert zoom.min() >= 1 / 1.25 - 1e-4
    assert zoom.max() <= 1 / 0.8 + 1e-4
    angle = torch.rad2deg(torch.atan2(-theta[:, 1, 0], theta[:, 0, 0]))
    assert angle.abs().max() < 20 + 5.1
    shift = torch.linalg.solve(theta[:, :, :2], theta[:, :, 2:])[..., 0] / 2
    assert shift[:, 0].abs().max() <= 0.1 + 1e-5
    assert shift[:, 1].abs().max() <= 0.3 + 1e-5
    assert shift[:, 1].abs().max() > 0.29


@pytest.mark.parametrize(
    "how",
    [
        Augmentation(rotation=35),
        Augmentation(shear=30),
        Augmentation(scale=(0.7, 1.3)),
        Augmentation(rotation=20, scale=(0.8, 1.2), shear=10, translation=(0.1, 0.2)),
    ],
)
def test_a_map_moves_pixels_as_torchvision_does(small_split, how):
    """The parameters are read back from our matrix and given to torchvision's affine."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import affine

    images = small_split.val.images[:20].float() / 255
    torch.manual_seed(5)
    theta = _affine_matrices(20, how, CPU)
    torch.manual_seed(5)
    moved = augment(images, how)

    for image, matrix, ours in zip(images, theta, moved, strict=True):
        linear = matrix[:, :2].double()
        zoom = torch.linalg.det(linear).sqrt()
        unit = linear / zoom
        # unit = shear back after turning back: its second row is (-sin, cos)
        angle = math.degrees(math.atan2(-unit[1, 0], unit[1, 1]))
        shear = math.degrees(math.atan((unit[0, 1] - math.sin(math.radians(angle))) / unit[1, 1]))
        shift = -(torch.linalg.inv(linear) @ matrix[:, 2].double()) * 14
        theirs = affine(
            image, angle=angle, translate=shift.tolist(), scale=1 / zoom.item(), shear=[shear, 0.0],
            interpolation=InterpolationMode.BILINEAR,
        )  # fmt: skip
        assert (ours - theirs).abs().mean() < 2e-3


def test_each_image_is_moved_by_a_map_of_its_own(small_split):
    image = small_split.val.images[:1].float() / 255

    moved = augment(image.expand(8, -1, -1, -1), Augmentation.of_strength(1.0))

    assert all(not torch.equal(moved[0], other) for other in moved[1:])


def test_what_lies_outside_is_filled():
    black = torch.zeros(4, 1, 28, 28)

    moved = augment(black, Augmentation(scale=(0.5, 0.5), fill=1.0, interpolation="nearest"))

    assert moved[:, 0, 14, 14].eq(0).all()
    assert moved[:, 0, 0, 0].eq(1).all()


def test_split_shares_no_image_and_repeats(digits):
    numbered = type(digits)(digits.images, torch.arange(len(digits)))

    parts = make_split(numbered, train=3000, val=1000, seed=0)
    again = make_split(numbered, train=1000, val=1000, seed=0)

    assert not set(parts.train.labels.tolist()) & set(parts.val.labels.tolist())
    assert torch.equal(parts.val.labels, again.val.labels)
    assert not torch.equal(parts.val.labels, make_split(numbered, 3000, 1000, seed=1).val.labels)
