"""What the supervisor does when a device has no room."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from mnist_search.errors import TryAgain
from mnist_search.study.events import Message, NoRoom, WorkerDone
from mnist_search.study.supervisor import supervise
from mnist_search.study.worker import Job
from mnist_search.training.device import is_out_of_memory


class Screen:
    def __init__(self):
        self.texts = []

    def show(self, event):
        assert isinstance(event, Message)
        self.texts.append(event.text)

    def tick(self):
        pass


def worker_on_a_device_for_one(job, connection):
    """A worker that finds room if it is the first, and is done when the two others have left."""
    others = job.data_dir / "others"
    try:
        others.mkdir()
    except FileExistsError:
        connection.send(NoRoom())
        (others / str(os.getpid())).touch()
        return
    while len(list(others.iterdir())) < 2:
        time.sleep(0.05)
    time.sleep(5)  # they are heard before this one is
    connection.send(WorkerDone())


def worker_on_a_full_device(_, connection):
    connection.send(NoRoom())


@pytest.fixture
def job(tmp_path):
    return Job(
        storage="", study="", data_dir=Path(tmp_path), digits=None, device="cuda", precision="auto",
        mlflow=None, keep_models=0,
    )  # fmt: skip


def test_a_device_with_room_for_one_goes_on_with_one(job):
    screen = Screen()

    assert supervise(job, 3, screen, worker_on_a_device_for_one) is None
    assert [text[-8:] for text in screen.texts] == ["--jobs 2", "--jobs 1"]


def worker_that_finds_no_room_after_all_is_done(job, connection):
    others = job.data_dir / "others"
    try:
        others.mkdir()
    except FileExistsError:
        time.sleep(5)  # the one that did everything is heard before
        connection.send(NoRoom())
    else:
        connection.send(WorkerDone())


def test_no_room_is_no_failure_once_all_is_done(job):
    screen = Screen()

    assert supervise(job, 2, screen, worker_that_finds_no_room_after_all_is_done) is None
    assert screen.texts == []


def test_a_device_without_room_for_one_is_told(job):
    with pytest.raises(TryAgain, match="no memory for one trial"):
        supervise(job, 2, Screen(), worker_on_a_full_device)


def test_a_gpu_out_of_memory_is_told_from_other_errors():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("CUDA error"))
