"""``finalize`` as a user runs it: real trainings, signals, kills, a server that stops, a failed final."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import time
from contextlib import closing, suppress
from dataclasses import replace

import pytest
from finished import complete_trial, finish_finals
from mlflow.tracking import MlflowClient
from soundness import assert_finals_sound
from support import free_port, mlflow_server

from experiments import StudyConfig
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store
from mnist_search.storage.finals import FinalsStudy
from search_space import SearchSpace

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore"),  # of MLflow in this process
]

PARAMS = {
    "depth": 3, **{f"width_{i}": 4 for i in range(1, 8)}, "transition_width": 4, "pool_1": 1, "pool_2": 2,
    "padding": "valid", "transition": False, "head": "gap", "dropout": 0.0, "dropout_per": "channel",
    "optimizer": "adamw", "sgd_lr": 0.1, "adamw_lr": 0.02, "weight_decay": 1e-4, "schedule": "one_cycle",
    "batch_size": 128, "label_smoothing": 0.0, "augmentation": 0.0,
}  # fmt: skip
"""A network that trains fast."""

FINALIZE = ["finalize", "budget-1500", "--top", "1", "--jobs", "1", "--device", "cpu", "--seeds"]
PATIENCE = 300
"""Seconds to wait for a command on a busy machine."""


@pytest.fixture(autouse=True)
def _data(mnist_dir, monkeypatch):
    monkeypatch.setenv("MNIST_SEARCH_DATA", str(mnist_dir))


@pytest.fixture
def study(empty_database, tmp_path):
    """A study of one complete trial in the working directory."""
    shutil.copy(empty_database, tmp_path)
    store = Store.open_or_create(f"sqlite:///{tmp_path}/mnist-search.db")
    config = StudyConfig(budget=1500, space=SearchSpace.for_budget(1500, epochs=1), pruner="none")
    study = SearchStudy.open_or_create(store, "budget-1500", config, 1)
    study.enqueue(PARAMS)
    complete_trial(study, 0.9)
    return study


def wait_until(condition, process, interval=0.05):
    """Wait for a condition while a command runs."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(interval)


def finals_of(folder):
    store = Store.open(f"sqlite:///{folder}/mnist-search.db")
    return FinalsStudy.open(store, "budget-1500.finals").record()


def states(folder):
    with suppress(Exception):  # the finals do not exist yet
        return [trial.state for trial in finals_of(folder).trials]
    return []


def has_rows(folder, query, database="mlflow.db"):
    """Whether a query of MLflow's database has rows."""
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(folder / database)) as tables:
        return bool(tables.execute(query).fetchall())
    return False


def assert_sound(folder, *, seeds, tracking_uri=None):
    """Every final is trained, tracked and evaluated once, and the champion is registered; the finals."""
    record = assert_finals_sound(folder, "budget-1500", seeds, tracked=tracking_uri is None)
    assert [(trial.number, trial.task.seed) for trial in record.trials] == [(n, n) for n in range(seeds)]
    client = MlflowClient(tracking_uri or f"sqlite:///{folder}/mlflow.db")
    for trial in record.trials:
        (point,) = client.get_metric_history(trial.run_id, "test_accuracy")
        assert point.value == trial.test_accuracy
    (model,) = client.search_logged_models([client.get_experiment_by_name("mnist-search").experiment_id])
    assert str(model.status) == "READY"
    (version,) = client.search_model_versions("name = 'mnist-search-1500'")
    champion = client.get_model_version_by_alias("mnist-search-1500", "champion")
    assert (champion.version, champion.run_id) == (version.version, record.trials[0].run_id)
    assert champion.tags["test_accuracy"] == str(record.trials[0].test_accuracy)
    return record


def test_signal_stops_finals_and_the_printed_command_continues_them(start, command, study, tmp_path):
    arguments = [*FINALIZE, "2"]
    process = start(*arguments)
    wait_until(lambda: states(tmp_path) == ["COMPLETE", "RUNNING"], process)

    os.killpg(process.pid, signal.SIGINT)  # a terminal signals the whole group
    _, err = process.communicate(timeout=PATIENCE)

    assert process.returncode == 130, err
    assert f"continue with: mnist-search {' '.join(arguments)}" in err
    assert "Optuna" not in err
    assert "A new study" not in err
    assert states(tmp_path) == ["COMPLETE", "WAITING"]
    first = finals_of(tmp_path).trials[0]

    continued = command(*arguments, timeout=PATIENCE)

    assert continued.code == 0, continued.err
    record = assert_sound(tmp_path, seeds=2)
    assert replace(record.trials[0], run_id=None) == replace(
        first, run_id=None
    )  # MLflow may have had no time
    assert "mnist-search-1500 version 1 is the champion" in continued.err
    assert study.record().done  # the search is unchanged

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    client.delete_registered_model_alias("mnist-search-1500", "champion")
    repeated = command(*arguments, timeout=PATIENCE)

    assert (repeated.code, repeated.out) == (0, continued.out), repeated.err
    assert assert_sound(tmp_path, seeds=2) == record


@pytest.mark.usefixtures("study")
@pytest.mark.parametrize("number", range(10))
def test_killed_finals_are_sound_after_the_same_command(start, command, tmp_path, number):
    """SIGKILL of the process group at a random moment of every stage between training and registration."""
    randomness = random.Random(number)
    seeds, condition, delay = [
        *[(2, lambda: "RUNNING" in states(tmp_path), randomness.uniform(0, 15))] * 4,
        *[(1, lambda: states(tmp_path) == ["COMPLETE"], randomness.uniform(0, 3))] * 2,
        (1, lambda: has_rows(tmp_path, FINISHED_FINAL), randomness.uniform(0, 1)),
        (1, lambda: has_rows(tmp_path, "SELECT 1 FROM logged_models"), 0.0),
        (1, lambda: has_rows(tmp_path, READY_MODEL), randomness.uniform(0, 3)),
        (1, lambda: has_rows(tmp_path, "SELECT 1 FROM model_versions"), 0.0),
    ][number]
    arguments = [*FINALIZE, str(seeds)]
    process = start(*arguments)
    wait_until(condition, process, interval=0.01)
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL

    done = command(*arguments, timeout=PATIENCE)

    assert done.code == 0, done.err
    assert_sound(tmp_path, seeds=seeds)


FINISHED_FINAL = """
    SELECT 1 FROM runs JOIN tags USING (run_uuid)
    WHERE tags.key = 'role' AND tags.value = 'final' AND runs.status = 'FINISHED'
"""
READY_MODEL = "SELECT 1 FROM logged_models WHERE status = 2"


@pytest.mark.usefixtures("study")
@pytest.mark.parametrize("stage", ["trained", "model logged"])
def test_champion_is_registered_later_when_the_server_stops(start, command, tmp_path, stage):
    port = free_port()
    arguments = [*FINALIZE, "1", "--tracking-uri", f"http://127.0.0.1:{port}"]
    with mlflow_server(tmp_path, port):
        process = start(*arguments)
        wait_until(lambda: states(tmp_path) == ["COMPLETE"], process)
        if stage == "model logged":
            wait_until(lambda: has_rows(tmp_path, READY_MODEL, "server.db"), process)
    _, err = process.communicate(timeout=PATIENCE)

    assert process.returncode == 69, err
    assert "the finals are done, but the champion is not registered" in err.splitlines()[-1]
    assert "Traceback" not in err
    (final,) = finals_of(tmp_path).trials

    with mlflow_server(tmp_path, port):
        done = command(*arguments, timeout=PATIENCE)
        assert done.code == 0, done.err
        record = assert_sound(tmp_path, seeds=1, tracking_uri=f"http://127.0.0.1:{port}")
    assert record.trials[0].attempt == final.attempt


@pytest.mark.usefixtures("study")
def test_failed_final_is_an_error_and_is_trained_by_the_same_command(start, command, tmp_path):
    arguments = [*FINALIZE, "1", "--no-mlflow"]
    process = start(*arguments)
    killed = set()
    while len(killed) < 3:  # the third crash fails a trial
        wait_until(lambda: workers_with_a_lease(tmp_path) - killed, process)
        (worker,) = workers_with_a_lease(tmp_path) - killed
        os.kill(worker, signal.SIGKILL)
        killed.add(worker)
    _, err = process.communicate(timeout=PATIENCE)

    assert process.returncode == 1, err
    assert (
        "1 final trials failed (first: trial 0, seed 0: its worker crashed 3 times)" in err.splitlines()[-1]
    )
    assert states(tmp_path) == ["FAIL"]

    done = command(*arguments, timeout=PATIENCE)

    assert done.code == 0, done.err
    assert states(tmp_path) == ["FAIL", "COMPLETE"]
    assert [trial.number for trial in finals_of(tmp_path).current] == [1]


def workers_with_a_lease(folder):
    """Process ids of the workers that train a trial."""
    with closing(sqlite3.connect(folder / "mnist-search.db")) as database:
        return {pid for (pid,) in database.execute("SELECT pid FROM mnist_search_leases")}


def test_finals_that_all_diverged_are_an_error(command, study, tmp_path):
    store = Store.open(f"sqlite:///{tmp_path}/mnist-search.db", write=True)
    finish_finals(store, study.record(), [None, None], top=1, seeds=2)

    done = command(*FINALIZE, "2", "--no-mlflow")

    assert done.code == 1
    assert done.err.splitlines()[-1].endswith(
        "every final training of the champion diverged; select another one with --again and --top N"
    )


def test_diverged_final_is_a_result(command, study, tmp_path):
    store = Store.open(f"sqlite:///{tmp_path}/mnist-search.db", write=True)
    finals = finish_finals(store, study.record(), [0.9, None], top=1, seeds=2)

    done = command(*FINALIZE, "2", "--no-mlflow", "--format", "csv")

    assert done.code == 0, done.err
    assert [trial.state for trial in finals.record().trials] == ["COMPLETE", "FAIL"]
