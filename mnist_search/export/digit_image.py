"""Image files of a digit, preprocessed as MNIST: white on black, 20 pixels wide or high, centered in 28."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from scipy.ndimage import center_of_mass

from mnist_search.errors import NotFound, UsageError, first_line

IMAGE_SIZE, DIGIT_SIZE = 28, 20
BACKGROUND_THRESHOLD = 0.25
"""Contrast with the background, as a fraction, below which a pixel is background."""

MAX_PIXELS = 64_000_000


def load_digit_image(path: Path) -> np.ndarray:
    """(28, 28) float32 in [0, 1], preprocessed as the authors of MNIST describe it.

    Dark digits on a light background are inverted. The digit is cropped, scaled to 20 pixels with its
    aspect ratio preserved, and placed in 28 by 28 pixels with its center of mass in the middle
    (yann.lecun.com/exdb/mnist). An image of 28 by 28 pixels with an empty border is returned unchanged.

    Raises:
        NotFound: no such file.
        UsageError: not an image, or it shows no digit.
    """
    gray = _open(path)
    if np.median(_frame(gray)) > 0.5:
        gray = 1 - gray
    low, high = float(gray.min()), float(gray.max())
    if high - low < BACKGROUND_THRESHOLD:
        raise UsageError(f"{path} shows no digit: the contrast is too low; name an image of one digit")
    if gray.shape == (IMAGE_SIZE, IMAGE_SIZE) and not _frame(gray).any():
        return gray
    level = (gray - low) / (high - low)
    return _center(_crop(np.where(level < BACKGROUND_THRESHOLD, 0, level)))


def _open(path: Path) -> np.ndarray:
    """Gray levels in [0, 1]."""
    try:
        with Image.open(path) as image:
            _check_size(image, path)
            return _gray(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise NotFound(f"no image file {path}; name a PNG or JPEG file") from None
    except UsageError:
        raise
    except Exception as error:  # a damaged file raises any exception in Pillow
        reason = first_line(error)
        raise UsageError(f"cannot read {path} as an image ({reason}); name a PNG or JPEG file") from error


def _check_size(image: Image.Image, path: Path) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise UsageError(f"{path} has more than {MAX_PIXELS:,} pixels; name a smaller image of one digit")


def _gray(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16"):  # Pillow would clip at 255, not scale
        return np.asarray(image, np.float32) / (2**16 - 1)
    if image.mode in {"I", "F"}:
        values = np.nan_to_num(np.asarray(image, np.float64)).clip(0)
        return (values / _white(float(values.max()))).astype(np.float32)
    if "A" in image.getbands() or "transparency" in image.info:  # transparent is white
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.asarray(image.convert("L"), np.float32) / 255


def _white(maximum: float) -> float:
    """The level of white in an image without a fixed number of bits, from its highest level."""
    return next((level for level in (1.0, 2.0**8 - 1, 2.0**16 - 1) if maximum <= level), maximum)


def _frame(gray: np.ndarray) -> np.ndarray:
    return np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])


def _crop(level: np.ndarray) -> np.ndarray:
    """The digit, scaled to 20 pixels."""
    image = Image.fromarray(level.astype(np.float32))
    digit = image.crop(image.getbbox())
    scale = DIGIT_SIZE / max(digit.size)
    size = [max(1, round(scale * length)) for length in digit.size]
    method = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    return np.asarray(digit.resize(size, method)).clip(0, 1)


def _center(digit: np.ndarray) -> np.ndarray:
    """The digit on a canvas, with its center of mass in the middle as far as it fits."""
    canvas = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.float32)
    corners = [round(IMAGE_SIZE / 2 - center) for center in center_of_mass(digit)]
    top, left = np.clip(corners, 0, IMAGE_SIZE - np.array(digit.shape))
    canvas[top : top + digit.shape[0], left : left + digit.shape[1]] = digit
    return canvas
