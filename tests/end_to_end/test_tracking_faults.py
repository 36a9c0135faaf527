"""Faults of MLflow reach neither the search nor, after the next command, MLflow's copy of it."""

from __future__ import annotations

import logging
import os
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from commands import SYNC, children
from soundness import assert_sound, open_study
from support import MLFLOW_WARNINGS, free_port, mlflow_server

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600), MLFLOW_WARNINGS]

logger = logging.getLogger(__name__)

TRIALS, FAULT_SECONDS = 6, 30
COMMAND = [
    "run", "--budget", "1500", "--trials", str(TRIALS), "--epochs", "4", "--train-images", "4000", "--val-images",
    "500", "--pruner", "none", "--device", "cpu", "--warm-start", "none", "--jobs", "1", "--keep-models", "2",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _data(mnist_dir, monkeypatch):
    monkeypatch.setenv("MNIST_SEARCH_DATA", str(mnist_dir))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def start(folder, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "mnist_search", *COMMAND, *arguments],
        cwd=folder, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process):
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    return out, err


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, mnist_dir):
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(start(folder, MNIST_SEARCH_DATA=str(mnist_dir)))
    return folder


def results(folder):
    """What a search decides, and the weights that it keeps."""
    search_study = open_study(folder)
    trials = [(t.number, t.state, t.params, t.val_accuracy, t.val_loss) for t in search_study.record().trials]
    return trials, search_study.queue.kept_weights()


def epoch_seconds(folder):
    return statistics.median(e.seconds for t in open_study(folder).record().trials for e in t.curve)


def points(tracking_uri):
    """Every run of the experiment by role and number: state, params and points without times."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri)
    experiment = client.get_experiment_by_name("mnist-search")
    copy = {}
    for run in client.search_runs([experiment.experiment_id]):
        key = run.data.tags["role"], run.data.tags.get("trial")
        assert key not in copy, "two runs of one trial"
        histories = {
            name: [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
            if name not in {"epoch_seconds", "samples_per_second"}
        }
        if key[0] == "study":
            histories = {name: history[-1:] for name, history in histories.items()}
        copy[key] = run.info.status, run.data.params, histories
    models = client.search_logged_models([experiment.experiment_id], max_results=100)
    return copy, sorted((model.name, str(model.status)) for model in models)


def wait_for_epochs(folder, count):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (folder / "mnist-search.db").exists():
            try:
                trained = open_study(folder).record().trained_epochs
            except Exception:  # noqa: BLE001 - the study does not exist yet
                trained = 0
            if trained >= count:
                return
        time.sleep(0.1)
    pytest.fail(f"not {count} epochs in time")


def check(folder, undisturbed, record_property, tracking_uri=None):
    """The search equals the undisturbed one; after the same command, MLflow's copy does, too."""
    assert results(folder) == results(undisturbed)
    record_property("epoch_seconds", epoch_seconds(folder))
    record_property("epoch_seconds_undisturbed", epoch_seconds(undisturbed))
    logger.info("median s of an epoch: %.3f and %.3f", epoch_seconds(folder), epoch_seconds(undisturbed))
    finish(start(folder, *(["--tracking-uri", tracking_uri] if tracking_uri else [])))
    expected = points(f"sqlite:///{undisturbed}/mlflow.db")
    assert points(tracking_uri or f"sqlite:///{folder}/mlflow.db") == expected
    assert_sound(folder, trials=TRIALS, tracked=tracking_uri is None)


class RefusingHandler(BaseHTTPRequestHandler):
    """Answers 500 to every request."""

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_error(500)

    do_POST = do_PATCH = do_GET  # noqa: N815 - names of http.server

    def log_message(self, *_):
        """Print nothing."""


@contextmanager
def refusing_server(port):
    server = HTTPServer(("127.0.0.1", port), RefusingHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_killed_sync_process(undisturbed, tmp_path, record_property):
    process, kills = start(tmp_path), 0
    while process.poll() is None and kills < 4:
        for sync in children(process, SYNC):
            sync.kill()
            kills += 1
        time.sleep(0.05)
    finish(process)
    assert kills >= 3
    check(tmp_path, undisturbed, record_property)


def test_server_that_is_down_for_a_while(undisturbed, tmp_path, record_property):
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    with mlflow_server(tmp_path, port):
        process = start(tmp_path, "--tracking-uri", uri)
        wait_for_epochs(tmp_path, 2)
    time.sleep(FAULT_SECONDS)
    with mlflow_server(tmp_path, port):
        finish(process)
        check(tmp_path, undisturbed, record_property, uri)


def test_server_that_answers_500(undisturbed, tmp_path, record_property):
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    with refusing_server(port):
        _, err = finish(start(tmp_path, "--tracking-uri", uri))
    assert err.count("cannot write to MLflow") == 1
    assert "MLflow lacks runs of this study" in err
    with mlflow_server(tmp_path, port):
        check(tmp_path, undisturbed, record_property, uri)


def test_locked_database(undisturbed, tmp_path, record_property):
    process = start(tmp_path)
    wait_for_epochs(tmp_path, 4)
    with closing(sqlite3.connect(tmp_path / "mlflow.db", timeout=30)) as database:
        database.execute("BEGIN EXCLUSIVE")
        time.sleep(FAULT_SECONDS)
    finish(process)
    check(tmp_path, undisturbed, record_property)


def test_runs_and_the_parent_run_are_deleted_during_the_search(undisturbed, tmp_path, record_property):
    from mlflow.tracking import MlflowClient

    process = start(tmp_path)
    wait_for_epochs(tmp_path, 10)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("mnist-search")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) >= 2
    for run in runs:
        client.delete_run(run.info.run_id)
    finish(process)
    check(tmp_path, undisturbed, record_property)


def test_broken_backend_of_matplotlib(undisturbed, tmp_path, record_property):
    finish(start(tmp_path, MPLBACKEND="module://no_such_backend"))
    check(tmp_path, undisturbed, record_property)


def test_tracking_uri_without_its_driver(undisturbed, tmp_path, record_property):
    _, err = finish(start(tmp_path, "--tracking-uri", "mysql+nodriver://localhost/mlflow"))
    assert "cannot write to MLflow" in err
    check(tmp_path, undisturbed, record_property)
