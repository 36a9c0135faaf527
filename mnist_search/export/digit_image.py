"""A picture of a digit, made like MNIST's: white on black, in a box of 20, its weight in the middle of 28."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mnist_search.errors import UsageError

SIDE, BOX = 28, 20
BACKGROUND_THRESHOLD = 0.25
"""Share of the full range below which a pixel counts as background."""

MAX_PIXELS = 64_000_000


def load_digit_image(path: Path) -> np.ndarray:
    """(28, 28) float32 in [0, 1], prepared as the authors of MNIST describe it.

    Dark digits on light ground are inverted. What stands out is cut out, scaled to fit a box of 20
    pixels with its shape kept, and laid into 28 pixels so that its centre of mass is in the middle
    (yann.lecun.com/exdb/mnist). A picture of 28 by 28 that is so already stays as it is.

    Raises:
        UsageError: not a picture, or nothing stands out in it.
    """
    grey = _open(path)
    if np.median(_frame(grey)) > 0.5:
        grey = 1 - grey
    low, high = float(grey.min()), float(grey.max())
    if high - low < BACKGROUND_THRESHOLD:
        raise UsageError(f"nothing stands out in {path}: it takes a picture of one digit")
    if grey.shape == (SIDE, SIDE) and not _frame(grey).any():
        return grey
    level = (grey - low) / (high - low)
    return _center(_crop(np.where(level < BACKGROUND_THRESHOLD, 0, level)))


def _open(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise UsageError(f"{path} is larger than a picture of one digit can be")
            upright = ImageOps.exif_transpose(picture)
            if "A" in upright.getbands() or "transparency" in upright.info:  # nothing lies on white
                rgba = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
            return np.asarray(upright.convert("L"), np.float32) / 255
    except FileNotFoundError:
        raise UsageError(f"no picture {path}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path} is no picture that can be read: PNG and JPEG can ({error})") from None


def _frame(grey: np.ndarray) -> np.ndarray:
    return np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])


def _crop(level: np.ndarray) -> Image.Image:
    rows, columns = np.flatnonzero(level.any(axis=1)), np.flatnonzero(level.any(axis=0))
    digit = level[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = BOX / max(digit.shape)
    size = [max(1, round(scale * length)) for length in reversed(digit.shape)]
    return Image.fromarray(digit.astype(np.float32)).resize(
        size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    )


def _center(digit: Image.Image) -> np.ndarray:
    pixels = np.clip(np.asarray(digit), 0, 1)
    canvas = np.zeros((SIDE, SIDE), np.float32)
    corner = []
    for axis in (0, 1):
        weights = pixels.sum(axis=1 - axis)
        centre = float((weights * np.arange(len(weights))).sum() / weights.sum())
        corner.append(min(max(round(SIDE / 2 - centre), 0), SIDE - len(weights)))
    top, left = corner
    canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return canvas
