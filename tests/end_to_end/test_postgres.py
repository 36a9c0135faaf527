"""Searches on Postgres: many workers, and a server that restarts."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing, suppress

import psutil
import pytest
from commands import WORKER, children

from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200), pytest.mark.filterwarnings("ignore")]
SHORT = [
    "run", "--budget", "1500", "--epochs", "1", "--train-images", "1000", "--val-images", "500",
    "--pruner", "none", "--warm-start", "none", "--sampler", "random", "--no-mlflow", "--device", "cpu",
]  # fmt: skip
RESTARTS = 10


def states(url, study="budget-1500"):
    with closing(Store.open(url)) as store:
        return [trial.state for trial in SearchStudy.open(store, study).record().trials]


def n_done(url):
    """Number of complete trials; 0 while there is no study or no server."""
    with suppress(Exception):
        return states(url).count("COMPLETE")
    return 0


@pytest.mark.parametrize("study", ["first", "second"])
def test_eight_workers_train_exactly_200_trials(command, postgres_url, mnist_dir, study):
    where = ["--storage", postgres_url, "--data-dir", str(mnist_dir), "--study", study]

    done = command(*SHORT, "--trials", "200", "--jobs", "8", *where, timeout=1100)

    assert done.code == 0, done.err
    assert states(postgres_url, study) == ["COMPLETE"] * 200


def test_restarts_of_the_server_lose_no_trial_and_no_worker(start, postgres_server, postgres_url, mnist_dir):
    where = ["--storage", postgres_url, "--data-dir", str(mnist_dir)]
    process = start(*SHORT, "--trials", "120", "--jobs", "2", *where)
    while n_done(postgres_url) < 2:
        assert process.poll() is None
        time.sleep(0.5)
    workers = children(process, WORKER)

    for _ in range(RESTARTS):
        postgres_server.stop()
        time.sleep(0.5)
        postgres_server.start()
        time.sleep(3)
    at_the_end = n_done(postgres_url), children(process, WORKER)
    _, err = process.communicate(timeout=600)

    assert at_the_end[0] < 118, "the restarts came too late"
    assert at_the_end[1] == workers, err
    assert process.returncode == 0, err
    assert "crashed" not in err
    assert states(postgres_url) == ["COMPLETE"] * 120


def test_result_of_a_worker_that_was_stopped_past_its_lease_is_refused(start, postgres_url, mnist_dir):
    where = ["--storage", postgres_url, "--data-dir", str(mnist_dir)]
    slow = [*SHORT, "--trials", "2", "--jobs", "1", "--train-images", "50000", *where]
    process = start(*slow)
    while not n_running(postgres_url):
        time.sleep(0.2)
    (worker,) = children(process, WORKER)
    os.kill(worker.pid, signal.SIGSTOP)
    expire_leases(postgres_url)

    second = start(*slow)
    _, err = second.communicate(timeout=600)
    assert second.returncode == 0, err
    before = states(postgres_url)
    os.kill(worker.pid, signal.SIGCONT)
    _, err = process.communicate(timeout=300)

    assert "expired; another worker has the trial" in err
    assert states(postgres_url) == before == ["COMPLETE"] * 2
    assert not psutil.pid_exists(worker.pid)


def n_running(url):
    with suppress(Exception):
        return states(url).count("RUNNING")
    return 0


def expire_leases(url):
    """Age every lease, as two minutes without renewal do."""
    import sqlalchemy as sa

    from mnist_search.storage.leases import LEASE_TIMEOUT
    from mnist_search.storage.tables import leases

    with closing(Store.open(url, write=True)) as store, store.engine.begin() as connection:
        connection.execute(sa.update(leases).values(beat=leases.c.beat - LEASE_TIMEOUT - 1))
