"""What the supervisor does when a device has no room."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from mnist_search.errors import TryAgain
from mnist_search.execution.events import Message, OutOfMemory, WorkerDone
from mnist_search.execution.supervisor import supervise
from mnist_search.execution.worker import WorkerConfig
from mnist_search.training.device import is_out_of_memory


class ProgressReporter:
    def __init__(self):
        self.texts = []

    def show(self, event):
        assert isinstance(event, Message)
        self.texts.append(event.text)

    def tick(self):
        pass


def worker_on_a_device_for_one(worker_config, connection):
    """A worker that finds room if it is the first, and is done when the two others have left."""
    others = worker_config.data_dir / "others"
    try:
        others.mkdir()
    except FileExistsError:
        connection.send(OutOfMemory())
        (others / str(os.getpid())).touch()
        return
    while len(list(others.iterdir())) < 2:
        time.sleep(0.05)
    time.sleep(5)  # they are heard before this one is
    connection.send(WorkerDone())


def worker_on_a_full_device(_, connection):
    connection.send(OutOfMemory())


@pytest.fixture
def worker_config(tmp_path):
    return WorkerConfig(
        storage="", study="", data_dir=Path(tmp_path), device="cuda", precision="auto",
        mlflow=None, keep_models=0,
    )  # fmt: skip


def test_a_device_with_room_for_one_goes_on_with_one(worker_config):
    screen = ProgressReporter()

    assert supervise(worker_config, 3, screen, worker_on_a_device_for_one) is None
    assert [text[-8:] for text in screen.texts] == ["--jobs 2", "--jobs 1"]


def worker_that_finds_no_room_after_all_is_done(worker_config, connection):
    others = worker_config.data_dir / "others"
    try:
        others.mkdir()
    except FileExistsError:
        time.sleep(5)  # the one that did everything is heard before
        connection.send(OutOfMemory())
    else:
        connection.send(WorkerDone())


def test_no_room_is_no_failure_once_all_is_done(worker_config):
    screen = ProgressReporter()

    assert supervise(worker_config, 2, screen, worker_that_finds_no_room_after_all_is_done) is None
    assert screen.texts == []


def test_a_device_without_room_for_one_is_told(worker_config):
    with pytest.raises(TryAgain, match="no memory for one trial"):
        supervise(worker_config, 2, ProgressReporter(), worker_on_a_full_device)


def test_a_gpu_out_of_memory_is_told_from_other_errors():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("CUDA error"))
