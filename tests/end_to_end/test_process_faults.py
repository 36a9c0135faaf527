"""Killed processes, second signals, a locked store, concurrent commands: real processes on MNIST."""

from __future__ import annotations

import logging
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest
import sqlalchemy as sa
from commands import SMALL, WORKER, children, is_training, kill_group, wait_for
from soundness import assert_sound, open_study, runs_of

from mnist_search.storage.database import Store
from mnist_search.storage.tables import leases

logger = logging.getLogger(__name__)
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]  # warnings of MLflow


@pytest.fixture(autouse=True)
def _data_and_database(mnist_dir, empty_database, tmp_path, monkeypatch):
    monkeypatch.setenv("MNIST_SEARCH_DATA", str(mnist_dir))
    shutil.copy(empty_database, tmp_path)


def wait_until(condition, seconds=120):
    """The first value of ``condition`` that is true."""
    for _ in range(seconds * 20):
        if value := condition():
            return value
        time.sleep(0.05)
    pytest.fail(f"the condition was not met within {seconds} s")


def kill_worker_with_trial(process, folder, jobs):
    """Once there are ``jobs`` workers, kill the oldest as soon as it has a trial whose parameters are counted."""
    store = Store.open(f"sqlite:///{folder}/mnist-search.db")

    def oldest():
        workers = children(process, WORKER)
        counted = [t.trial_id for t in open_study(folder).record().trials if t.num_params]
        query = sa.select(leases.c.pid).where(leases.c.trial_id.in_(counted))
        with store.engine.connect() as connection:
            has_trial = set(connection.execute(query).scalars())
        return workers[0] if len(workers) == jobs and workers[0].pid in has_trial else None

    worker = wait_until(oldest)
    store.close()
    worker.kill()
    wait_until(lambda: worker not in children(process, WORKER))


def finished(folder):
    return {
        t.number: (t.state, t.params, t.val_accuracy)
        for t in open_study(folder).record().trials
        if t.is_finished
    }


@pytest.mark.soak
def test_remaining_worker_finishes_the_study_when_no_worker_is_replaced(start, tmp_path):
    process = start(*SMALL, "--trials", "8", "--jobs", "2", "--epochs", "8")
    wait_for(tmp_path, is_training)

    for _ in range(4):
        kill_worker_with_trial(process, tmp_path, jobs=2)
    _, err = process.communicate(timeout=200)

    assert process.returncode == 0, err
    assert "a worker crashed (exit code -9); not restarting" in err
    record = assert_sound(tmp_path, trials=8)
    assert sum(trial.crashes for trial in record.trials) == 4
    _, parent, _ = runs_of(tmp_path)
    assert (parent.info.status, parent.data.tags["trials"]) == ("FINISHED", "8/8")


@pytest.mark.soak
def test_crashes_of_all_workers_exit_with_75_and_the_same_command_continues(start, command, tmp_path):
    arguments = [*SMALL, "--trials", "3", "--jobs", "1", "--epochs", "8"]
    process = start(*arguments)
    wait_for(tmp_path, is_training)

    for _ in range(4):
        kill_worker_with_trial(process, tmp_path, jobs=1)
    _, err = process.communicate(timeout=200)

    assert process.returncode == 75, err
    assert "workers crashed 4 times" in err
    assert runs_of(tmp_path)[1].info.status == "KILLED"
    again = command(*arguments)
    assert again.code == 0, again.err
    record = assert_sound(tmp_path, trials=3)
    assert record.trials[0].reason == "its worker crashed 3 times"


@pytest.mark.soak
@pytest.mark.parametrize("phase", ["training", "sync"])
def test_second_signal_ends_the_command_without_sync_and_report(start, command, tmp_path, phase):
    arguments = [*SMALL, "--trials", "4", "--jobs", "2", "--epochs", "10"]
    process = start(*arguments)
    wait_for(tmp_path, lambda record: is_training(record) and any(t.run_id for t in record.trials))
    if phase == "training":  # the workers do not answer
        for worker in children(process, WORKER):
            worker.suspend()
    process.send_signal(signal.SIGINT)
    if phase == "training":
        time.sleep(2)  # two signals that arrive together are one
    else:
        wait_until(lambda: not children(process, WORKER))

    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    _, err = process.communicate(timeout=200)

    logger.info("%s: %.2f s after the second signal", phase, time.monotonic() - started)
    assert process.returncode == 130, err
    assert "continue with: mnist-search" in err
    record = open_study(tmp_path).record()
    assert {t.state for t in record.trials} <= {"COMPLETE", "WAITING"}
    assert all(t.epochs == 0 for t in record.trials if t.state == "WAITING")
    _, parent, client = runs_of(tmp_path)
    assert parent.info.status == "RUNNING"  # the next command writes the end
    assert "report.html" not in [file.path for file in client.list_artifacts(parent.info.run_id)]

    again = command(*arguments)
    assert again.code == 0, again.err
    assert_sound(tmp_path, trials=4)


@pytest.mark.soak
def test_trial_does_not_fail_when_its_command_is_killed_three_times(start, command, tmp_path):
    arguments = [*SMALL, "--trials", "1", "--jobs", "1", "--epochs", "10"]
    attempts = set()
    for _ in range(3):
        process = start(*arguments)
        record = wait_for(
            tmp_path, lambda record: is_training(record) and record.trials[0].attempt not in attempts
        )
        attempts.add(record.trials[0].attempt)
        kill_group(process)

    last = command(*arguments)

    assert last.code == 0, last.err
    (trial,) = assert_sound(tmp_path, trials=1).trials
    assert (trial.state, trial.crashes) == ("COMPLETE", 0)


@pytest.mark.soak
def test_run_waits_for_a_store_that_another_program_locks_for_90_seconds(start, tmp_path):
    process = start(*SMALL, "--trials", "3", "--jobs", "2", "--epochs", "4")
    wait_for(tmp_path, is_training)

    with closing(sqlite3.connect(tmp_path / "mnist-search.db", timeout=60, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        time.sleep(90)  # longer than one wait of SQLite
        other.execute("COMMIT")
    _, err = process.communicate(timeout=200)

    assert process.returncode == 0, err
    waits = [line for line in err.splitlines() if line.startswith("waiting for the store: ")]
    assert len(waits) == len(set(waits)) >= 1
    assert_sound(tmp_path, trials=3)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_sweep_is_sound_after_20_kills_at_random_moments(start, command, tmp_path):
    arguments = [*SMALL, "--trials", "10", "--jobs", "2", "--epochs", "6"]
    moments = random.Random(0)
    kills, before = 0, {}
    for _ in range(20):
        process = start(*arguments)
        try:
            process.wait(moments.uniform(1, 12))
        except subprocess.TimeoutExpired:
            kills += 1
        kill_group(process)
        if (tmp_path / "mnist-search.db").exists() and (after := finished(tmp_path)):
            assert {number: after[number] for number in before} == before
            before = after
    logger.info("%d of 20 kills before the end of the study", kills)

    last = command(*arguments)

    assert last.code == 0, last.err
    assert kills >= 10
    record = assert_sound(tmp_path, trials=10)
    assert [trial.crashes for trial in record.trials] == [0] * 10


@pytest.mark.slow
def test_two_concurrent_commands_share_a_new_study(start, tmp_path):
    commands = [start(*SMALL, "--trials", "6", "--jobs", "1") for _ in range(2)]

    errors = [process.communicate(timeout=200)[1] for process in commands]

    assert [process.returncode for process in commands] == [0, 0], errors
    assert_sound(tmp_path, trials=6)


def test_search_goes_on_when_nobody_reads_its_progress(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "mnist_search", *SMALL, "--trials", "1", "--jobs", "1", "--no-mlflow"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    process.stderr.close()

    process.wait(60)

    assert [t.state for t in open_study(tmp_path).record().trials] == ["COMPLETE"]
