"""Searches on Ray: a local one, a cluster of two nodes on Postgres, and a node that is lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import closing

import pytest
from commands import SMALL, is_training, wait_for
from soundness import assert_sound, runs_of

from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store

pytestmark = [pytest.mark.timeout(500), pytest.mark.filterwarnings("ignore")]
SHORT = [
    "run", "--budget", "1500", "--epochs", "1", "--train-images", "1000", "--val-images", "500",
    "--pruner", "none", "--warm-start", "none", "--engine", "ray",
]  # fmt: skip


@pytest.fixture
def cluster():
    """A head with two CPUs and a node with two CPUs, as processes of this machine."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    cluster.second = cluster.add_node(num_cpus=2)
    yield cluster
    cluster.shutdown()


@pytest.mark.slow
def test_local_search_is_stopped_and_continued(start, command, tmp_path, mnist_dir):
    arguments = [*SMALL, "--engine", "ray", "--trials", "3", "--jobs", "1", "--data-dir", str(mnist_dir)]
    process = start(*arguments)
    wait_for(tmp_path, is_training)

    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)

    assert process.returncode == 130, err
    assert "trained epochs are lost" in err or "trained epoch is lost" in err
    done = command(*arguments, timeout=200)
    assert done.code == 0, done.err
    assert_sound(tmp_path, trials=3, data_dir=mnist_dir)


def trials_of(url):
    with closing(Store.open(url)) as store:
        return SearchStudy.open(store, "budget-1500").record().trials


@pytest.mark.soak
def test_a_cluster_trains_every_trial_once(command, cluster, postgres_url, mnist_dir, tmp_path):
    where = ["--address", cluster.address, "--storage", postgres_url, "--data-dir", str(mnist_dir)]

    done = command(*SHORT, "--trials", "40", *where, timeout=400)

    assert done.code == 0, done.err
    trials = trials_of(postgres_url)
    assert [trial.state for trial in trials] == ["COMPLETE"] * 40
    runs, _, _ = runs_of(tmp_path)
    assert sorted(runs) == list(range(40))


@pytest.mark.soak
def test_trials_of_a_lost_node_run_again_elsewhere(start, cluster, postgres_url, mnist_dir, tmp_path):
    where = ["--address", cluster.address, "--storage", postgres_url, "--data-dir", str(mnist_dir)]
    process = start(*SHORT, "--trials", "40", *where)
    Store.open_or_create(postgres_url).close()

    def lose_a_node():
        while True:
            time.sleep(0.5)
            try:
                done = [trial for trial in trials_of(postgres_url) if trial.is_finished]
            except Exception:  # noqa: BLE001 - the study does not exist yet
                continue
            if len(done) >= 10:
                break
        cluster.remove_node(cluster.second, allow_graceful=False)

    killer = threading.Thread(target=lose_a_node, daemon=True)
    killer.start()
    _, err = process.communicate(timeout=450)

    killer.join(10)
    assert process.returncode == 0, err
    assert "was lost; its workers start on free nodes" in err
    assert [trial.state for trial in trials_of(postgres_url)] == ["COMPLETE"] * 40
    runs, _, _ = runs_of(tmp_path)
    assert sorted(runs) == list(range(40))


@pytest.mark.slow
def test_sqlite_is_refused_with_two_nodes(command, cluster, mnist_dir):
    done = command(*SHORT, "--trials", "2", "--address", cluster.address, "--data-dir", str(mnist_dir))

    assert done.code == 78
    (line,) = done.err.strip().splitlines()[-1:]
    assert "the 2 nodes of the Ray cluster cannot share a SQLite file" in line
    assert "mnist-search copy budget-1500 --to postgresql://USER@HOST/DATABASE" in line
