"""Searches on Postgres: many workers, and a server that restarts."""

from __future__ import annotations

import time
from contextlib import closing, suppress

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
