"""Supervisor: devices short of memory, crashed workers, errors of workers."""

from __future__ import annotations

import os
from functools import partial

import pytest

from mnist_search import errors
from mnist_search.errors import MnistSearchError, TryAgain
from mnist_search.execution.events import Message, OutOfMemory, WorkerDone, WorkerFailed
from mnist_search.execution.supervisor import MAX_RESTARTS, Supervisor, as_error, supervise


class MessageRecorder:
    """A reporter that records messages."""

    def __init__(self):
        self.texts = []

    def handle(self, event):
        assert isinstance(event, Message)
        self.texts.append(event.text)

    def refresh(self):
        pass


def send(events, connection):
    for event in events:
        connection.send(event)


def send_after_acknowledgement(event, connection):
    connection.recv()
    connection.send(event)


def crash(_):
    os._exit(9)


def poll_until(supervisor, n_workers):
    while len(supervisor.processes) > n_workers:
        supervisor.poll(0.5)


def test_supervisor_continues_with_one_worker_when_the_device_has_memory_for_one():
    reporter = MessageRecorder()
    supervisor = Supervisor(partial(send_after_acknowledgement, WorkerDone()), reporter)
    supervisor.start_worker()
    supervisor.worker = partial(send, [OutOfMemory()])
    supervisor.start_worker()
    supervisor.start_worker()

    poll_until(supervisor, 1)
    (connection,) = supervisor.processes
    connection.send("finish")
    poll_until(supervisor, 0)

    assert [text[-8:] for text in reporter.texts] == ["--jobs 2", "--jobs 1"]
    assert (supervisor.stop, supervisor.failure) == (None, None)


def test_supervisor_ignores_missing_memory_when_all_trials_are_done():
    reporter = MessageRecorder()
    supervisor = Supervisor(partial(send, [WorkerDone()]), reporter)
    supervisor.start_worker()
    poll_until(supervisor, 0)
    supervisor.worker = partial(send, [OutOfMemory()])
    supervisor.start_worker()
    poll_until(supervisor, 0)

    assert (reporter.texts, supervisor.failure) == ([], None)


def test_supervise_raises_when_the_device_has_no_memory_for_one_trial():
    with pytest.raises(TryAgain, match="no memory for one trial"):
        supervise(partial(send, [OutOfMemory()]), 2, MessageRecorder())


def test_supervise_raises_try_again_when_replacements_crash():
    reporter = MessageRecorder()

    with pytest.raises(TryAgain, match=f"workers crashed {MAX_RESTARTS + 1} times") as raised:
        supervise(crash, 1, reporter)

    assert raised.value.exit_code == 75
    assert reporter.texts == [
        *["a worker crashed (exit code 9); starting another"] * MAX_RESTARTS,
        "a worker crashed (exit code 9); not restarting",
    ]


def test_supervisor_reports_the_same_message_of_workers_once():
    reporter = MessageRecorder()

    supervise(partial(send, [Message("MLflow is unavailable"), WorkerDone()]), 2, reporter)

    assert reporter.texts == ["MLflow is unavailable"]


@pytest.mark.parametrize("kind", [MnistSearchError, *MnistSearchError.__subclasses__()])
def test_as_error_rebuilds_the_exception_of_a_worker(kind):
    error = as_error(WorkerFailed(kind.__name__, "what, why, next command", "Traceback of the worker"))

    assert type(error) is getattr(errors, kind.__name__) is kind
    assert str(error) == "what, why, next command"
    assert error.__notes__ == ["Traceback of the worker"]
