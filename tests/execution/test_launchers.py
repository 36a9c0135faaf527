"""Both engines keep one contract: workers start, report, stop, are killed and replaced."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace

import pytest

from mnist_search.errors import Unavailable, UnusableConfiguration, UsageError
from mnist_search.execution.config import RunConfig
from mnist_search.execution.events import STOP, Message, ProcessEvent, TrialEnded, TrialEpoch, TrialStarted
from mnist_search.execution.run_study import ProcessLauncher, open_launcher
from mnist_search.execution.supervisor import ProgressReporter, Supervisor
from mnist_search.search.study import SearchStudy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]
SECONDS = 60


@pytest.fixture
def search_study(store, study_config):
    return SearchStudy.open_or_create(store, "s", study_config, n_trials=2)


@pytest.fixture
def config(search_study, store, mnist_dir):
    return RunConfig(storage=store.url, study=search_study.name, data_dir=mnist_dir, device="cpu", jobs=1)


@pytest.fixture(params=["processes", "ray"])
def launcher(request, config):
    with open_launcher(replace(config, engine=request.param)) as opened:
        yield opened


def start(launcher):
    (config,) = launcher.worker_configs(1)
    return launcher.start(config)


def events_of(worker, until=lambda _event: False):
    """The events of a worker until one meets a condition, or its end."""
    events = []
    while worker.connection.poll(SECONDS):
        try:
            events.append(worker.connection.recv())
        except (EOFError, OSError):
            return events
        if until(events[-1]):
            return events
    raise TimeoutError(events)


def test_worker_trains_every_trial_and_ends(launcher, search_study):
    worker = start(launcher)

    events = events_of(worker)

    assert [type(event) for event in events] == 2 * [TrialStarted, TrialEpoch, TrialEpoch, TrialEnded] + [
        ProcessEvent
    ]
    assert events[-1] == ProcessEvent.DONE
    assert worker.end(SECONDS) == 0
    assert [trial.state for trial in search_study.record().trials] == ["COMPLETE"] * 2
    assert not worker.is_waiting
    assert worker.lost_node is None
    assert all((event.node is None) == isinstance(launcher, ProcessLauncher) for event in events[:1])


def test_stop_releases_the_running_trial(launcher, search_study):
    worker = start(launcher)
    events_of(worker, until=lambda event: isinstance(event, TrialEpoch))

    worker.send(STOP)

    *_, ended, done = events_of(worker)
    assert (ended.number, ended.state, done) == (0, "WAITING", ProcessEvent.DONE)
    assert worker.end(SECONDS) == 0
    assert search_study.record().trials[0].state == "WAITING"


def test_killed_worker_ends_the_connection(launcher):
    worker = start(launcher)
    events_of(worker, until=lambda event: isinstance(event, TrialStarted))

    worker.kill()

    assert ProcessEvent.DONE not in events_of(worker)
    assert worker.end(SECONDS) != 0
    worker.send(STOP)  # without effect


class Killer(ProgressReporter):
    """Kills the first worker when it starts its first trial."""

    def __init__(self):
        self.workers, self.texts = [], []

    def handle(self, event):
        if isinstance(event, TrialStarted) and len(self.workers) == 1:
            self.workers[0].kill()
        elif isinstance(event, Message):
            self.texts.append(event.text)


def test_killed_worker_is_replaced_and_its_trial_is_trained(launcher, search_study):
    reporter = Killer()

    def start_worker(config):
        reporter.workers.append(launcher.start(config))
        return reporter.workers[-1]

    Supervisor(start_worker, reporter).run_workers(launcher.worker_configs(2))

    assert len(reporter.workers) == 2
    assert [trial.state for trial in search_study.record().trials] == ["COMPLETE"] * 2
    assert any(
        text.startswith("a worker crashed (exit code -9); starting another") for text in reporter.texts
    )


def test_worker_without_a_free_cpu_waits_until_no_trial_is_left(config, search_study):
    with open_launcher(replace(config, engine="ray", jobs=None)) as launcher:
        (first, *_) = launcher.worker_configs(2)
        n_cpus = len(launcher.worker_configs(1000))
        supervisor = Supervisor(launcher.start, ProgressReporter())

        supervisor.run_workers([first] * (n_cpus + 1))

    assert [trial.state for trial in search_study.record().trials] == ["COMPLETE"] * 2
    assert supervisor.restarts == 0


def test_stop_ends_a_worker_that_waits(config):
    with open_launcher(replace(config, engine="ray", jobs=None)) as launcher:
        configs = launcher.worker_configs(1000)
        workers = [launcher.start(configs[0]) for _ in range(len(configs) + 1)]
        events_of(workers[0], until=lambda event: isinstance(event, TrialStarted))
        (waiting,) = [worker for worker in workers if worker.is_waiting]

        waiting.send(STOP)

        assert events_of(waiting) == []


def test_cluster_that_does_not_exist_is_one_line(config):
    with (
        pytest.raises(Unavailable, match=r"no Ray cluster at 127\.0\.0\.1:1: .*ray start --head"),
        open_launcher(replace(config, engine="ray", address="127.0.0.1:1")),
    ):
        pass


def test_missing_ray_names_the_extra(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # Python's own mark of a module that cannot be imported

    with (
        pytest.raises(UnusableConfiguration, match=r"pip install 'mnist-search\[ray\]'"),
        open_launcher(replace(config, engine="ray")),
    ):
        pass


def test_address_needs_the_engine():
    with pytest.raises(UsageError, match="pass --engine ray"):
        RunConfig(storage="sqlite:///s.db", study="s", address="auto")


def test_processes_and_finished_studies_need_no_cluster(config):
    assert isinstance(open_launcher(config), nullcontext)
    assert isinstance(open_launcher(replace(config, engine="ray"), n_left=0), nullcontext)
