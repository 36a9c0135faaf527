"""The sync process of a run, with a real MLflow: SQLite, a server that stops and restarts."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import Pipe

import pytest
import sqlalchemy as sa
from mlflow.tracking import MlflowClient
from optuna.trial import TrialState
from support import MLFLOW_WARNINGS, free_port, mlflow_server
from tracked_trials import epoch_metrics, points, runs_in, start, train

from mnist_search.execution.config import RunConfig
from mnist_search.execution.events import Message, ProcessEvent
from mnist_search.execution.process import ModuleProcess
from mnist_search.execution.runtime import Channel
from mnist_search.execution.sync_process import SyncLoop
from mnist_search.search.study import SearchStudy
from mnist_search.storage.finals import FinalsStudy, finals_uid, name_of_finals
from mnist_search.storage.tables import leases
from mnist_search.storage.tracked import TrackedStudy
from mnist_search.tracking.config import local_file, make_tracking_config
from mnist_search.tracking.sync import StudySync

pytestmark = [MLFLOW_WARNINGS, pytest.mark.timeout(300)]

MODULE = "mnist_search.execution.sync_process"


@pytest.fixture
def search_study(store, study_config):
    return SearchStudy.open_or_create(store, "s", study_config, n_trials=10)


@pytest.fixture
def sync_config(store, empty_database, tmp_path):
    shutil.copy(empty_database, tmp_path)

    def make(uri=f"sqlite:///{tmp_path}/mlflow.db"):
        mlflow = make_tracking_config(uri, "experiment")
        return RunConfig(storage=store.url, study="s", mlflow=mlflow, data_dir=tmp_path)

    return make


@pytest.fixture
def start_process():
    processes = []

    def start(config):
        processes.append(ModuleProcess(MODULE, config))
        return processes[-1]

    yield start
    for process in processes:
        process.end(0)


def receive_until(process, is_last):
    """The events up to the awaited one; the last is None if the process has ended before."""
    events = []
    while not events or not (events[-1] is None or is_last(events[-1])):
        assert process.connection.poll(300), events
        try:
            events.append(process.connection.recv())
        except EOFError:
            events.append(None)
    return events


def is_end(event):
    return event == ProcessEvent.DONE


def is_progress(event):
    return event == ProcessEvent.SYNC_PROGRESS


def wait_until(condition, process):
    """Wait while the process runs; its messages stay unread."""
    while not condition():
        assert process.poll() is None
        time.sleep(0.2)


def texts(events):
    return [event.text for event in events if isinstance(event, Message)]


def stored_runs(config):
    """The trial runs; none before the process has created the database."""
    if not local_file(config.mlflow.tracking_uri).exists():
        return []
    return runs_in(MlflowClient(config.mlflow.tracking_uri))


def run_to_the_end(config):
    """Run the sync in this process after the supervisor has requested the end; the messages."""
    supervisor, child = Pipe()
    supervisor.send("FINISHED")
    SyncLoop(config, Channel(child)).run()
    child.close()
    events = []
    with suppress(EOFError):
        while True:
            events.append(supervisor.recv())
    return texts(events)


def test_process_writes_a_running_trial_and_what_is_left_at_the_end(search_study, sync_config, start_process):
    config = sync_config()
    claim = start(search_study, epochs=1)
    process = start_process(config)
    wait_until(lambda: stored_runs(config), process)
    search_study.queue.report(claim, epoch_metrics(2))
    search_study.queue.finish(claim, TrialState.PRUNED)

    process.send("KILLED")

    events = receive_until(process, is_end)
    assert (texts(events), events[-1]) == ([], ProcessEvent.DONE)
    client = MlflowClient(config.mlflow.tracking_uri)
    (run,), (parent,) = runs_in(client), runs_in(client, "study")
    assert (run.info.status, parent.info.status) == ("KILLED", "KILLED")
    assert points(client, run.info.run_id, "val_accuracy") == [(1, 0.5), (2, 0.5)]


@pytest.mark.usefixtures("search_study")
def test_process_ends_with_its_supervisor(sync_config):
    process = ModuleProcess(MODULE, sync_config())

    process.connection.close()

    assert process.wait(200) == 0


@pytest.mark.usefixtures("search_study")
def test_terminated_process_reports_no_end(sync_config, start_process):
    process = start_process(sync_config())
    receive_until(process, is_progress)

    os.kill(process.pid, signal.SIGTERM)

    assert receive_until(process, is_end)[-1] is None


@pytest.mark.slow
def test_only_one_process_writes_a_study(search_study, store, sync_config):
    train(search_study)
    config = sync_config()

    with TrackedStudy(store, "s").lock(0):
        assert run_to_the_end(config) == []
    assert stored_runs(config) == []
    assert run_to_the_end(config) == []
    assert [run.info.status for run in stored_runs(config)] == ["FINISHED"]


@pytest.mark.slow
def test_unreachable_server_is_reported_once_and_given_up(search_study, sync_config, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    train(search_study)

    messages = run_to_the_end(sync_config(f"http://127.0.0.1:{free_port()}"))

    assert len(messages) == 2
    assert "cannot write to MLflow" in messages[0]
    assert "writes them from the store" in messages[1]


def test_artifacts_that_cannot_be_written_are_reported(search_study, sync_config, tmp_path):
    (tmp_path / "mlartifacts").touch()
    train(search_study)

    messages = run_to_the_end(sync_config())

    assert ["MLflow lacks artifacts" in text for text in messages] == [True]


@contextmanager
def broken_server():
    """A server that answers every request with status 500; its address."""

    class Handler(BaseHTTPRequestHandler):
        def handle_one_request(self):
            self.raw_requestline = self.rfile.readline()
            self.close_connection = True
            if self.parse_request():
                self.send_error(500)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_server_that_fails_every_request_is_given_up(search_study, sync_config, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    train(search_study)

    with broken_server() as address:
        messages = run_to_the_end(sync_config(address))

    assert ["cannot write to MLflow" in text for text in messages] == [True, False]


def test_finals_put_the_runs_of_a_killed_search_right(search_study, store, sync_config):
    train(search_study)
    config = sync_config()
    run_to_the_end(config)
    client = MlflowClient(config.mlflow.tracking_uri)
    killed = start(search_study, epochs=1)
    StudySync(TrackedStudy(store, "s"), config.mlflow, config.data_dir, pytest.fail).sync()
    assert runs_in(client, "study")[0].info.status == "RUNNING"
    with store.engine.begin() as connection:  # its worker has ended
        connection.execute(sa.delete(leases).where(leases.c.owner == killed.owner))
    finals = FinalsStudy.open_or_create(store, name_of_finals("s"), finals_uid(search_study.record().uid))

    assert run_to_the_end(replace(config, kind="finals", study=finals.name)) == []

    assert [run.info.status for run in runs_in(client)] == ["FINISHED"]
    assert search_study.record().trials[1].state == "WAITING"


def test_finals_leave_a_search_alone_that_runs(search_study, store, sync_config):
    config = sync_config()
    start(search_study, epochs=1)
    tracked = TrackedStudy(store, "s")
    StudySync(tracked, config.mlflow, config.data_dir, pytest.fail).sync()
    finals = FinalsStudy.open_or_create(store, name_of_finals("s"), finals_uid(search_study.record().uid))

    with tracked.lock(0):
        run_to_the_end(replace(config, kind="finals", study=finals.name))

    assert [run.info.status for run in stored_runs(config)] == ["RUNNING"]
    assert search_study.record().trials[0].state == "RUNNING"


@pytest.mark.soak
@pytest.mark.timeout(400)
def test_epochs_of_an_outage_are_written_afterwards(
    search_study, sync_config, start_process, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    port = free_port()
    config = sync_config(f"http://127.0.0.1:{port}")
    client = MlflowClient(config.mlflow.tracking_uri)
    claim = start(search_study, epochs=1)
    with mlflow_server(tmp_path, port):
        process = start_process(config)
        wait_until(lambda: runs_in(client), process)
    search_study.queue.report(claim, epoch_metrics(2))
    events = receive_until(process, lambda event: isinstance(event, Message))
    assert "training continues" in events[-1].text
    search_study.queue.report(claim, epoch_metrics(3))
    search_study.queue.finish(claim, TrialState.FAIL)
    train(search_study)

    with mlflow_server(tmp_path, port):
        process.send("FINISHED")
        assert texts(receive_until(process, is_end)) == []

        first, second = runs_in(client)
        assert (first.info.status, second.info.status) == ("FAILED", "FINISHED")
        assert [step for step, _ in points(client, first.info.run_id, "val_accuracy")] == [1, 2, 3]
        assert len(runs_in(client, "study")) == 1
