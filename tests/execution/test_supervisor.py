"""Supervisor: devices short of memory, crashed workers, errors of workers, stops, signals."""

from __future__ import annotations

import signal
import threading
import time

import psutil
import pytest

from mnist_search import errors
from mnist_search.errors import MnistSearchError, TryAgain
from mnist_search.execution.config import RunConfig
from mnist_search.execution.events import (
    FINISH_RUNNING,
    STOP,
    DeviceFailed,
    Message,
    ProcessEvent,
    Stop,
    TrialEpoch,
    WorkerFailed,
)
from mnist_search.execution.process import ModuleProcess, SyncRunner
from mnist_search.execution.supervisor import MAX_RESTARTS, SIGNAL_SECONDS, SIGNALS, Supervisor


class MessageRecorder:
    """A reporter that records messages."""

    def __init__(self):
        self.texts = []
        self.stops = []

    def handle(self, event):
        if isinstance(event, Message):
            self.texts.append(event.text)
        elif isinstance(event, Stop):
            self.stops.append(event)

    def refresh(self):
        pass


class BrokenReporter(MessageRecorder):
    """A reporter with a bug."""

    def handle(self, event):
        raise ZeroDivisionError(event)


def scripted(*script):
    """Starts workers that follow a script, whatever their config."""

    def start(config=None):
        process = ModuleProcess("scripted_worker", script)
        process.config = config
        return process

    return start


CONFIG = RunConfig(storage="sqlite:///none.db", study="s", device="cuda:1")


def poll_until(supervisor, n_workers):
    while len(supervisor.processes) > n_workers:
        supervisor.poll()


@pytest.fixture(autouse=True)
def _no_process_is_left():
    yield
    assert [p for p in psutil.Process().children() if "scripted_worker" in p.cmdline()] == []


def test_supervisor_continues_with_one_worker_when_the_device_has_memory_for_one():
    reporter = MessageRecorder()
    supervisor = Supervisor(scripted("wait for a message"), reporter)
    supervisor.start_worker(CONFIG)
    supervisor.start_process = scripted(ProcessEvent.OUT_OF_MEMORY)
    supervisor.start_worker(CONFIG)
    supervisor.start_worker(CONFIG)

    poll_until(supervisor, 1)
    (process,) = supervisor.processes.values()
    process.send("finish")
    poll_until(supervisor, 0)

    assert [text[-8:] for text in reporter.texts] == ["--jobs 2", "--jobs 1"]
    assert (supervisor.stop, supervisor.failure) == (None, None)


def test_supervisor_ignores_missing_memory_when_all_trials_are_done():
    reporter = MessageRecorder()
    supervisor = Supervisor(scripted(), reporter)
    supervisor.start_worker(CONFIG)
    poll_until(supervisor, 0)
    supervisor.start_process = scripted(ProcessEvent.OUT_OF_MEMORY)
    supervisor.start_worker(CONFIG)
    poll_until(supervisor, 0)

    assert (reporter.texts, supervisor.failure) == ([], None)


def test_run_workers_raises_when_the_device_has_no_memory_for_one_trial():
    supervisor = Supervisor(scripted(ProcessEvent.OUT_OF_MEMORY), MessageRecorder())

    with pytest.raises(TryAgain, match="no memory for one trial"):
        supervisor.run_workers([CONFIG] * 2)


def test_supervisor_replaces_crashed_workers_a_limited_number_of_times():
    reporter = MessageRecorder()
    supervisor = Supervisor(scripted("crash"), reporter)

    assert supervisor.run_workers([CONFIG]) is None

    assert supervisor.restarts == MAX_RESTARTS + 1
    assert reporter.texts == [
        *["a worker crashed (exit code 9); starting another"] * MAX_RESTARTS,
        "a worker crashed (exit code 9); not restarting",
    ]


def test_supervisor_reports_the_same_message_of_workers_once():
    reporter = MessageRecorder()

    Supervisor(scripted(Message("waiting for the store")), reporter).run_workers([CONFIG] * 2)

    assert reporter.texts == ["waiting for the store"]


@pytest.mark.parametrize("kind", [MnistSearchError, *MnistSearchError.__subclasses__()])
def test_run_workers_raises_the_error_of_a_worker(kind):
    failed = WorkerFailed(kind("what, why, next command"), "Traceback of the worker")

    with pytest.raises(MnistSearchError) as raised:
        Supervisor(scripted(failed), MessageRecorder()).run_workers([CONFIG])

    assert type(raised.value) is getattr(errors, kind.__name__) is kind
    assert str(raised.value) == "what, why, next command"
    assert raised.value.__notes__ == ["Traceback of the worker"]


def test_worker_that_starts_while_a_stop_is_requested_is_stopped():
    reporter = MessageRecorder()
    supervisor = Supervisor(scripted(), reporter)

    def start_during_a_signal(_):
        process = scripted("wait for a message", Message("stopped"))()
        supervisor.request_stop(Stop("SIGINT", signal.SIGINT))
        return process

    supervisor.start_process = start_during_a_signal

    assert supervisor.run_workers([CONFIG]) == Stop("SIGINT", signal.SIGINT)
    assert reporter.texts == ["stopped"]


@pytest.mark.slow
def test_worker_that_does_not_stop_is_killed():
    supervisor = Supervisor(scripted("never end"), MessageRecorder())

    assert supervisor.run_workers([CONFIG], timeout=0.1) == Stop("the timeout of 0.1 s was reached")

    assert supervisor.processes == {}


def test_no_process_is_left_when_the_reporter_raises():
    supervisor = Supervisor(scripted(Message("hello"), "never end"), BrokenReporter())

    with pytest.raises(ZeroDivisionError), supervisor.handling_signals():
        supervisor.run_workers([CONFIG] * 2)

    assert supervisor.processes == {}


def test_error_of_the_sync_process_is_reported_once_and_stops_no_worker():
    reporter = MessageRecorder()
    epoch = TrialEpoch(0, 1, 0.9, 1000.0)
    sync = SyncRunner(scripted(WorkerFailed(MnistSearchError("no MLflow"), "")))
    supervisor = Supervisor(scripted(epoch, "wait for a message"), reporter, sync)
    supervisor.start_worker(CONFIG)
    while not reporter.texts:
        supervisor.poll()
    sync.restart_at = 0.0
    while not sync.process:
        supervisor.poll()
    while sync.process:
        supervisor.poll()
    (process,) = supervisor.processes.values()
    process.send("finish")
    poll_until(supervisor, 0)

    assert reporter.texts == ["cannot write to MLflow: no MLflow"]
    assert (supervisor.stop, supervisor.failure) == (None, None)


def test_second_signal_kills_the_workers():
    supervisor = Supervisor(scripted(Message("runs"), "never end"), MessageRecorder())

    with supervisor.handling_signals():
        supervisor.start_worker(CONFIG)
        (process,) = supervisor.processes.values()
        while not supervisor.reporter.texts:
            supervisor.poll()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        code = process.wait(10)

    assert (code, supervisor.stop) == (-signal.SIGKILL, Stop("SIGTERM", signal.SIGTERM))


def test_supervisor_handles_no_signals_outside_of_the_main_thread():
    before = [signal.getsignal(number) for number in SIGNALS]
    during, stops = [], []

    def supervise():
        supervisor = Supervisor(scripted(), MessageRecorder())
        with supervisor.handling_signals():
            during.extend(signal.getsignal(number) for number in SIGNALS)
            stops.append(supervisor.run_workers([CONFIG]))

    thread = threading.Thread(target=supervise)
    thread.start()
    thread.join()

    assert during == before
    assert stops == [None]


def test_handlers_are_restored():
    before = [signal.getsignal(number) for number in SIGNALS]

    with Supervisor(scripted(), MessageRecorder()).handling_signals():
        assert all(signal.getsignal(number) not in before for number in SIGNALS)

    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_ignored_interrupts_stay_ignored_in_the_command_and_its_workers():
    supervisor = Supervisor(scripted(Message("runs"), "wait for a message"), MessageRecorder())
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell starts background jobs
    try:
        with supervisor.handling_signals():
            supervisor.start_worker(CONFIG)
            while not supervisor.reporter.texts:
                supervisor.poll()
            (process,) = supervisor.processes.values()
            process.send_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            process.send("finish")
            poll_until(supervisor, 0)
    finally:
        signal.signal(signal.SIGINT, previous)

    assert (supervisor.signals, supervisor.restarts, supervisor.finished) == (0, 0, True)


def test_supervisor_restarts_the_worker_of_a_failed_device_with_its_trials_one_at_a_time():
    reporter = MessageRecorder()
    configs = []

    def start(config):
        configs.append(config)
        script = [DeviceFailed("CUDA error", 3)] if len(configs) == 1 else []
        return scripted(*script)(config)

    supervisor = Supervisor(start, reporter)

    assert supervisor.run_workers([CONFIG]) is None

    assert [config.trials_alone for config in configs] == [0, 3]
    assert configs[1].device == "cuda:1"
    assert reporter.texts == ["the worker of cuda:1 has failed (CUDA error); starting another"]
    assert supervisor.restarts == 1


def test_a_sync_that_is_late_after_a_signal_is_not_waited_for():
    reporter = MessageRecorder()
    supervisor = Supervisor(scripted(), reporter, SyncRunner(scripted("never end")))
    supervisor.signals, supervisor.signalled = 1, time.monotonic() - SIGNAL_SECONDS

    with supervisor.handling_signals():
        supervisor.finish_sync("KILLED")

    assert reporter.texts == [
        "the latest results are not in MLflow yet; the next run, resume or finalize writes them from the store"
    ]


def test_stop_is_shown_once_and_not_by_the_signal_handler():
    reporter = MessageRecorder()
    supervisor = Supervisor(scripted(Message("runs"), "wait for a message"), reporter)
    with supervisor.handling_signals():
        supervisor.start_worker(CONFIG)
        signal.raise_signal(signal.SIGINT)
        shown_by_the_handler = list(reporter.stops)
        supervisor.run_workers([])

    assert shown_by_the_handler == []
    assert reporter.stops == [Stop("SIGINT", signal.SIGINT)]


FINISHING = Stop("SIGINT", signal.SIGINT, finish_running=True)


def interrupted(start, reporter, times):
    """A supervisor with ``finish_running`` whose worker runs while signals arrive, and why it stopped."""
    supervisor = Supervisor(start, reporter, finish_running=True)
    with supervisor.handling_signals():
        supervisor.start_worker(CONFIG)
        while not reporter.texts:
            supervisor.poll()
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
        return supervisor, supervisor.run_workers([])


def test_first_interrupt_lets_running_trials_end():
    reporter = MessageRecorder()
    start = scripted(Message("runs"), "receive", Message("ended"))
    supervisor, stop = interrupted(start, reporter, times=1)

    assert reporter.texts == ["runs", FINISH_RUNNING, "ended"]
    assert (stop, supervisor.stop, supervisor.signals) == (FINISHING, None, 0)
    assert reporter.stops == [FINISHING]


def test_second_interrupt_releases_the_trials_that_the_first_lets_end():
    reporter = MessageRecorder()
    start = scripted(Message("runs"), "receive", "receive")
    supervisor, stop = interrupted(start, reporter, times=2)

    assert reporter.texts == ["runs", FINISH_RUNNING, STOP]
    assert stop == supervisor.stop == Stop("SIGINT", signal.SIGINT)
    assert reporter.stops == [FINISHING, Stop("SIGINT", signal.SIGINT)]


def test_termination_does_not_wait_for_running_trials():
    supervisor = Supervisor(scripted("receive"), MessageRecorder(), finish_running=True)
    with supervisor.handling_signals():
        supervisor.start_worker(CONFIG)
        signal.raise_signal(signal.SIGTERM)
        stop = supervisor.run_workers([])

    assert stop == Stop("SIGTERM", signal.SIGTERM)
    assert supervisor.reporter.texts == [STOP]


def test_crashed_worker_is_not_replaced_while_running_trials_end():
    start = scripted(Message("runs"), "wait for a message", "crash")
    supervisor = Supervisor(start, MessageRecorder(), finish_running=True)
    with supervisor.handling_signals():
        supervisor.start_worker(CONFIG)
        while not supervisor.reporter.texts:
            supervisor.poll()
        signal.raise_signal(signal.SIGINT)
        stop = supervisor.run_workers([])

    assert (stop, supervisor.restarts) == (FINISHING, 0)
