"""Random affine maps: their ranges, and torchvision's as the reference."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import affine

from mnist_search.training.augment import RandomAffine
from mnist_search.training.device import CPU
from search_space.training_config import Augmentation


def test_affine_matrices_stay_within_their_ranges():
    augmentation = Augmentation(rotation=20, translation=(0.1, 0.3), scale=(0.8, 1.25), shear=5)

    theta = RandomAffine(augmentation, CPU).draw(20_000, torch.Generator().manual_seed(0))

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
    "augmentation",
    [
        Augmentation(rotation=35),
        Augmentation(shear=30),
        Augmentation(scale=(0.7, 1.3)),
        Augmentation(rotation=20, scale=(0.8, 1.2), shear=10, translation=(0.1, 0.2)),
    ],
)
def test_augment_equals_torchvision_with_the_same_map(small_split, augmentation):
    """The arguments of torchvision's affine are derived from our matrix."""
    images = small_split.val.images[:20].float() / 255
    affine_map = RandomAffine(augmentation, CPU)
    theta = affine_map.draw(20, torch.Generator().manual_seed(5))
    augmented = affine_map(images, theta)

    for image, matrix, actual in zip(images, theta, augmented, strict=True):
        linear = matrix[:, :2].double()
        zoom = torch.linalg.det(linear).sqrt()
        unit = linear / zoom
        # unit = inverse rotation, then inverse shear: its second row is (-sin, cos)
        angle = math.degrees(math.atan2(-unit[1, 0], unit[1, 1]))
        shear = math.degrees(math.atan((unit[0, 1] - math.sin(math.radians(angle))) / unit[1, 1]))
        shift = -(torch.linalg.inv(linear) @ matrix[:, 2].double()) * 14
        expected = affine(
            image,
            angle=angle,
            translate=shift.tolist(),
            scale=1 / zoom.item(),
            shear=[shear, 0.0],
            interpolation=InterpolationMode.BILINEAR,
        )
        assert (actual - expected).abs().mean() < 2e-3


def test_augment_draws_a_map_per_image(small_split):
    image = small_split.val.images[:1].float() / 255

    affine_map = RandomAffine(Augmentation.of_strength(1.0), CPU)
    augmented = affine_map(image.expand(8, -1, -1, -1), affine_map.draw(8, torch.Generator()))

    assert all(not torch.equal(augmented[0], other) for other in augmented[1:])


def test_augment_fills_pixels_outside_the_image():
    black = torch.zeros(4, 1, 28, 28)

    affine_map = RandomAffine(Augmentation(scale=(0.5, 0.5), fill=1.0, interpolation="nearest"), CPU)
    augmented = affine_map(black, affine_map.draw(4, torch.Generator()))

    assert augmented[:, 0, 14, 14].eq(0).all()
    assert augmented[:, 0, 0, 0].eq(1).all()
