"""One random affine map per image of a batch, in one resampling."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from search_space.training_config import Augmentation


def augment(images: Tensor, how: Augmentation) -> Tensor:
    """Each image under an affine map of its own.

    Angles, shifts, scales and shears are uniform in the ranges of ``how``, as in
    ``torchvision.transforms.RandomAffine``, which draws once per call and so once per batch.

    Args:
        images: (N, 1, H, W) floating point, values in [0, 1].
        how: the ranges.

    Returns:
        (N, 1, H, W), same dtype and device.
    """
    if how.is_identity:
        return images
    theta = _affine_matrices(len(images), how, images.device)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    # Outside is zero for grid_sample, so what lies outside becomes ``fill`` by a shift of levels.
    moved = F.grid_sample(
        images - how.fill, grid.to(images.dtype), mode=how.interpolation, align_corners=False
    )
    return moved + how.fill


def _affine_matrices(n: int, how: Augmentation, device: torch.device) -> Tensor:
    """(n, 2, 3) maps from output to input in coordinates where the image spans [-1, 1]."""

    def draw(low: float, high: float) -> Tensor:
        return torch.empty(n, device=device).uniform_(low, high)

    angle = draw(-how.rotation, how.rotation) * (math.pi / 180)
    shear = torch.tan(draw(-how.shear, how.shear) * (math.pi / 180))
    zoom = 1 / draw(*how.scale)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    # The inverse of rotation after shear: turn back, then shear back.
    a, b, c, d = cos - shear * sin, sin + shear * cos, -sin, cos
    x, y = (draw(-2 * t, 2 * t) for t in how.translation)
    return torch.stack((a, b, a * x + b * y, c, d, c * x + d * y), dim=1).view(n, 2, 3)
