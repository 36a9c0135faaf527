"""SyncRunner with real processes."""

from __future__ import annotations

import errno
import os
from functools import partial

import pytest

from mnist_search.execution.events import Message, ProcessEvent
from mnist_search.execution.process import END_SECONDS, RESTART_SECONDS, ModuleProcess, SyncRunner

SECONDS = 60
"""Time within which a process has started."""


@pytest.fixture
def make_runner():
    runners = []

    def make(behavior):
        runners.append(SyncRunner(partial(ModuleProcess, "stub_process", behavior)))
        return runners[-1]

    yield make
    for runner in runners:
        runner.kill()


def receive(runner):
    """The next event of the process; None after its end."""
    assert runner.process.connection.poll(SECONDS)
    try:
        return runner.process.connection.recv()
    except EOFError:
        return None


def crash(runner):
    runner.keep_running()
    assert receive(runner) == ProcessEvent.SYNC_PROGRESS
    assert receive(runner) is None
    runner.handle_exit(ended=False)


def test_without_mlflow_nothing_is_started_and_the_end_is_immediate():
    runner = SyncRunner()

    runner.keep_running()
    runner.request_end("FINISHED")

    assert runner.process is None
    assert runner.is_done


def test_process_is_started_once(make_runner):
    runner = make_runner("end")

    runner.keep_running()
    process = runner.process
    runner.keep_running()

    assert runner.process is process
    assert not runner.is_done


def test_process_receives_the_status_at_the_end_and_is_not_started_again(make_runner):
    runner = make_runner("end")
    runner.keep_running()
    runner.request_end("KILLED")

    assert receive(runner) == ProcessEvent.SYNC_PROGRESS
    assert receive(runner) == Message("KILLED")
    assert receive(runner) == ProcessEvent.DONE
    runner.handle_exit(ended=True)
    runner.keep_running()

    assert runner.process is None
    assert runner.is_done


def test_process_that_is_started_at_the_end_receives_the_status(make_runner):
    runner = make_runner("end")

    runner.request_end("FINISHED")

    receive(runner)
    assert receive(runner) == Message("FINISHED")


def test_crashed_process_is_replaced_after_a_delay_that_doubles(make_runner):
    runner = make_runner("crash")
    crash(runner)
    runner.keep_running()
    assert runner.process is None  # not immediately
    first = runner.restart_at

    runner.restart_at -= RESTART_SECONDS
    crash(runner)

    assert runner.crashes == 2
    assert runner.restart_at - first > RESTART_SECONDS
    assert not runner.is_done


def test_process_that_cannot_be_started_has_crashed(make_runner):
    runner = make_runner("end")
    start = runner.start

    def without_memory():
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    runner.start = without_memory
    runner.keep_running()
    assert (runner.process, runner.crashes, runner.is_done) == (None, 1, False)

    runner.start = start
    runner.keep_running()
    assert runner.process is None  # not immediately
    runner.request_end("FINISHED")
    assert runner.process is not None


def test_process_that_crashed_before_the_end_is_replaced_for_the_end(make_runner):
    runner = make_runner("crash")
    crash(runner)

    runner.request_end("FINISHED")

    assert runner.process is not None


def test_process_without_progress_is_given_up_after_the_end_was_requested(make_runner):
    runner = make_runner("hang")
    runner.keep_running()
    runner.last_progress -= 2 * END_SECONDS
    assert not runner.is_done  # training continues

    runner.request_end("FINISHED")
    assert not runner.is_done
    runner.last_progress -= 2 * END_SECONDS
    assert runner.is_done
    runner.note_progress()
    assert not runner.is_done


def test_process_that_uses_the_cpu_is_not_given_up(make_runner):
    runner = make_runner("compute")
    runner.request_end("FINISHED")
    receive(runner)
    assert receive(runner) == Message("FINISHED")
    runner.keep_running()
    runner.last_progress -= 2 * END_SECONDS
    assert runner.is_done

    while runner.is_done:
        runner.keep_running()


def test_killed_process_has_ended(make_runner):
    runner = make_runner("hang")
    runner.keep_running()
    process = runner.process

    runner.kill()
    runner.kill()  # twice is no error

    assert process.wait(SECONDS) == -9
    assert runner.process is None
