"""The MNIST files: location, checksums, content."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from platformdirs import user_cache_path

from mnist_search.data.download import ADVICE, download
from mnist_search.errors import Unavailable

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
TRAIN_FILES = (TRAIN_IMAGES, TRAIN_LABELS)
ALL_FILES = (*TRAIN_FILES, TEST_IMAGES, TEST_LABELS)

SHA256 = {
    TRAIN_IMAGES: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    TRAIN_LABELS: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    TEST_IMAGES: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    TEST_LABELS: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""Checksums of the unpacked files."""


def resolve_data_dir(data_dir: Path | None) -> Path:
    """The given folder, or the cache, into which missing files are downloaded.

    Raises:
        Unavailable: the given folder does not exist, or the download failed.
        DiskError: the cache cannot be written.
    """
    if data_dir is None:
        cache = user_cache_path("mnist-search") / "MNIST" / "raw"  # torchvision's layout
        download(cache, ALL_FILES, verify)
        return cache
    if not data_dir.is_dir():
        raise Unavailable(f"no MNIST data: {data_dir} is not a folder; {ADVICE}")
    return data_dir


def verify(folder: Path, names: Iterable[str] = ALL_FILES) -> None:
    """Check the checksums of these files, as ``read`` does."""
    for name in names:
        read(folder, name)


def read(folder: Path, name: str) -> bytes:
    """The verified content of one IDX file, unpacked.

    Raises:
        Unavailable: the file is missing, unreadable or not the canonical one.
    """
    plain, gzipped = folder / name, folder / f"{name}.gz"
    path = plain if plain.exists() else gzipped
    try:
        content = path.read_bytes() if path == plain else gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise Unavailable(f"no MNIST data: {plain} and {gzipped.name} are missing; {ADVICE}") from None
    except (OSError, EOFError) as error:
        raise Unavailable(f"cannot read {path}: {error}; {ADVICE}") from error
    if hashlib.sha256(content).hexdigest() != SHA256[name]:
        raise Unavailable(f"{path} is not the MNIST file: its SHA-256 checksum is wrong; {ADVICE}")
    return content


def read_training(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The 60,000 training images (N, 28, 28) uint8 and labels (N,) uint8; opens no test file."""
    return _parse(read(folder, TRAIN_IMAGES)), _parse(read(folder, TRAIN_LABELS))


def read_test(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The 10,000 test images (N, 28, 28) uint8 and labels (N,) uint8."""
    return _parse(read(folder, TEST_IMAGES)), _parse(read(folder, TEST_LABELS))


def _parse(idx: bytes) -> np.ndarray:
    """The array of an IDX file whose checksum was verified."""
    shape = np.frombuffer(idx, ">i4", count=idx[3], offset=4)
    return np.frombuffer(idx, np.uint8, offset=4 + 4 * idx[3]).reshape(shape)
