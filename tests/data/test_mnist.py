"""MNIST files: canonical content or a clear error."""

from __future__ import annotations

import gzip
import hashlib
import shutil

import numpy as np
import pytest

from mnist_search.data import mnist
from mnist_search.errors import Unavailable


@pytest.fixture
def training_files(mnist_dir, tmp_path):
    """A writable copy of the training files."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    for path in mnist_dir.glob("train-*"):
        shutil.copyfile(path, folder / path.name)
    return folder


def test_training_set_has_sixty_thousand_images_of_ten_classes(mnist_dir):
    images, labels = mnist.read_training(mnist_dir)

    assert (images.shape, images.dtype) == ((60_000, 28, 28), np.uint8)
    assert np.bincount(labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert images.mean() / 255 == pytest.approx(0.1307, abs=1e-4)


def test_read_training_needs_no_test_file(training_files):
    assert not list(training_files.glob("t10k*"))

    assert len(mnist.read_training(training_files)[1]) == 60_000


def test_read_returns_the_same_content_from_a_plain_and_a_gzipped_file(training_files):
    (packed,) = training_files.glob("train-labels*")
    content = packed.read_bytes()
    packed.unlink()
    if packed.suffix == ".gz":
        (training_files / mnist.TRAIN_LABELS).write_bytes(gzip.decompress(content))
    else:
        (training_files / f"{packed.name}.gz").write_bytes(gzip.compress(content))

    digest = hashlib.sha256(mnist.read(training_files, mnist.TRAIN_LABELS)).hexdigest()

    assert digest == mnist.SHA256[mnist.TRAIN_LABELS]


def test_missing_files_are_named_with_the_remedy(tmp_path):
    with pytest.raises(Unavailable, match=r"train-images-idx3-ubyte.* missing; put the four IDX files"):
        mnist.verify(tmp_path)
    with pytest.raises(Unavailable, match="is not a folder"):
        mnist.resolve_data_dir(tmp_path / "none")


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "text"])
def test_read_rejects_a_damaged_file(training_files, damage):
    (path,) = training_files.glob("train-labels*")
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    path.write_bytes(
        {"truncate": content[:-1000], "empty": b"", "text": b"digits"}.get(damage, bytes(content))
    )

    with pytest.raises(Unavailable, match=r"cannot read|SHA-256 checksum is wrong"):
        mnist.read_training(training_files)
