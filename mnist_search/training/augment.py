"""Data augmentation: one random affine map per image, in one resampling per batch."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from search_space.architecture import INPUT_SHAPE
from search_space.training_config import Augmentation


class RandomAffine:
    """Draws an affine map per image and applies it.

    Angles, shifts, scales and shears are uniform, as in ``torchvision.transforms.RandomAffine``,
    which draws once per call and so once per batch.
    """

    def __init__(self, augmentation: Augmentation, device: torch.device) -> None:
        self._augmentation = augmentation
        identity = torch.eye(2, 3, device=device)[None]
        _, self._height, self._width = INPUT_SHAPE
        grid = F.affine_grid(identity, [1, 1, self._height, self._width], align_corners=False).view(-1, 2)
        self._pixels = torch.cat((grid, torch.ones_like(grid[:, :1])), dim=1).T.contiguous()

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, 2, 3) maps from output to input, in coordinates where the image spans [-1, 1]."""

        def uniform(low: float, high: float) -> Tensor:
            return torch.empty(n, device=generator.device).uniform_(low, high, generator=generator)

        limits = self._augmentation
        angle = uniform(-limits.rotation, limits.rotation) * (math.pi / 180)
        shear = torch.tan(uniform(-limits.shear, limits.shear) * (math.pi / 180))
        zoom = 1 / uniform(*limits.scale)
        cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
        # The inverse of rotation after shear: inverse rotation first, then inverse shear.
        a, b, c, d = cos - shear * sin, sin + shear * cos, -sin, cos
        x, y = (uniform(-2 * t, 2 * t) for t in limits.translation)
        return torch.stack((a, b, a * x + b * y, c, d, c * x + d * y), dim=1).view(n, 2, 3)

    def __call__(self, images: Tensor, maps: Tensor) -> Tensor:
        """Resample (N, 1, 28, 28) float32 images with values in [0, 1] by (N, 2, 3) maps."""
        grid = (maps.reshape(-1, 3) @ self._pixels).view(len(images), 2, self._height, self._width)
        # grid_sample pads with zeros; subtracting ``fill`` before and adding it after pads with ``fill``.
        fill = self._augmentation.fill
        shifted = images - fill if fill else images
        grid, mode = grid.permute(0, 2, 3, 1), self._augmentation.interpolation
        resampled = F.grid_sample(shifted, grid, mode, align_corners=False)
        return resampled + fill if fill else resampled
