"""Data augmentation: one random affine map per image of a batch, in one resampling."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from search_space.training_config import Augmentation


def augment(images: Tensor, augmentation: Augmentation) -> Tensor:
    """Apply a random affine map to each of (N, 1, H, W) images with floating-point values in [0, 1].

    Angles, shifts, scales and shears are uniform, as in ``torchvision.transforms.RandomAffine``,
    which draws once per call and so once per batch.
    """
    if augmentation.is_identity:
        return images
    theta = affine_matrices(len(images), augmentation, images.device)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False).to(images.dtype)
    # grid_sample pads with zeros; subtracting ``fill`` before and adding it after pads with ``fill``.
    shifted = images - augmentation.fill
    return F.grid_sample(shifted, grid, augmentation.interpolation, align_corners=False) + augmentation.fill


def affine_matrices(n: int, augmentation: Augmentation, device: torch.device) -> Tensor:
    """(n, 2, 3) random maps from output to input, in coordinates where the image spans [-1, 1]."""

    def draw(low: float, high: float) -> Tensor:
        return torch.empty(n, device=device).uniform_(low, high)

    angle = draw(-augmentation.rotation, augmentation.rotation) * (math.pi / 180)
    shear = torch.tan(draw(-augmentation.shear, augmentation.shear) * (math.pi / 180))
    zoom = 1 / draw(*augmentation.scale)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    # The inverse of rotation after shear: inverse rotation first, then inverse shear.
    a, b, c, d = cos - shear * sin, sin + shear * cos, -sin, cos
    x, y = (draw(-2 * t, 2 * t) for t in augmentation.translation)
    return torch.stack((a, b, a * x + b * y, c, d, c * x + d * y), dim=1).view(n, 2, 3)
