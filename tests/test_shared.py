"""Workers map one copy of the training images."""

from __future__ import annotations

import multiprocessing
import re
import resource
import sys
from pathlib import Path

import pytest
import torch

from mnist_search.training.device import CPU
from mnist_search.training.digits import load_split
from mnist_search.training.shared import shared_digits

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="anonymous shared memory is Linux's")


def tell_what_is_there(digits, connection):
    """In a spawned process: the split, and what of its mapping was copied."""
    split = digits.split(50_000, 10_000, CPU)
    seen = [part.images.sum().item() + part.labels.sum().item() for part in (split.train, split.val)]
    maps = Path("/proc/self/smaps").read_text()
    (own,) = re.findall(r"memfd:mnist.*?Anonymous:\s+(\d+) kB", maps, re.DOTALL)
    connection.send((seen, int(own)))


def test_a_spawned_process_has_the_same_split_without_a_copy(mnist_dir):
    own = load_split(mnist_dir, 50_000, 10_000, seed=0, device=CPU)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()

    with shared_digits(mnist_dir, seed=0) as digits:
        process = context.Process(target=tell_what_is_there, args=(digits, theirs))
        process.start()
        seen, kilobytes = ours.recv()
        process.join()

    assert seen == [part.images.sum().item() + part.labels.sum().item() for part in (own.train, own.val)]
    assert kilobytes == 0


def test_a_split_outlives_the_descriptor(mnist_dir):
    own = load_split(mnist_dir, 1000, 500, seed=3, device=CPU)

    with shared_digits(mnist_dir, seed=3) as digits:
        split = digits.split(1000, 500, CPU)

    assert torch.equal(split.train.images, own.train.images)
    assert torch.equal(split.val.labels, own.val.labels)


def test_where_files_may_not_grow_nothing_is_shared(mnist_dir):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with shared_digits(mnist_dir, seed=0) as digits:
            assert digits is None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
