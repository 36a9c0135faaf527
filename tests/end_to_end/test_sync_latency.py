"""How soon a metric is in MLflow, and how much CPU time the sync takes, while two workers train."""

from __future__ import annotations

import logging
import sqlite3
import statistics
import time
from contextlib import closing, suppress

import psutil
import pytest
from commands import SMALL, SYNC, children
from soundness import assert_sound, open_study
from support import MLFLOW_WARNINGS

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900), MLFLOW_WARNINGS]

logger = logging.getLogger(__name__)

POINTS = "SELECT run_uuid, step, timestamp FROM metrics WHERE key = 'val_accuracy'"
CORES = 2

POLL_SECONDS = 0.02


@pytest.fixture(autouse=True)
def _data(mnist_dir, monkeypatch):
    monkeypatch.setenv("MNIST_SEARCH_DATA", str(mnist_dir))


def watch(process, database, interval=0.05):
    """Seconds from the end of each epoch to its point in MLflow, and CPU seconds of the sync process."""
    delays, cpu_seconds = {}, 0.0
    while process.poll() is None:
        with (
            suppress(sqlite3.OperationalError),
            closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as tables,
        ):
            for run, step, timestamp in tables.execute(POINTS):
                delays.setdefault((run, step), time.time() - timestamp / 1000)
        with suppress(psutil.NoSuchProcess):
            for sync in children(process, SYNC):
                times = sync.cpu_times()
                cpu_seconds = max(cpu_seconds, times.user + times.system)
        time.sleep(interval)
    return list(delays.values()), cpu_seconds


def test_every_metric_is_in_mlflow_while_two_workers_train(start, tmp_path):
    process = start(*SMALL, "--trials", "4", "--jobs", "2", "--epochs", "20", "--train-images", "20000")

    delays, _ = watch(process, tmp_path / "mlflow.db")

    assert process.returncode == 0, process.stderr.read()
    record = assert_sound(tmp_path, trials=4)
    assert len(delays) == record.trained_epochs
    logger.info(
        "seconds to MLflow, %d points: median %.2f, 90th percentile %.2f, maximum %.2f",
        len(delays), statistics.median(delays), statistics.quantiles(delays, n=10)[-1], max(delays),
    )  # fmt: skip


def first_epoch(process, folder, started):
    """Seconds from the start of a command to its first trained epoch, and from that to its sync process."""
    seen = None
    while process.poll() is None and seen is None:
        if children(process, SYNC):
            seen = time.time()  # the start of a process in /proc is up to a second off the wall clock
        time.sleep(POLL_SECONDS)
    assert process.wait() == 0, process.stderr.read()
    trained = min(e.timestamp / 1000 for t in open_study(folder).record().trials for e in t.curve)
    return trained - started, seen and seen - trained


def test_first_trained_epoch_is_not_later_with_mlflow(start, tmp_path):
    """The sync process starts after the first trained epoch; the times with and without it are logged."""
    seconds = {"--mlflow": [], "--no-mlflow": []}
    for number in range(5):
        for option, measured in seconds.items():
            for path in tmp_path.glob("*.db*"):
                path.unlink()
            started = time.time()
            process = start(*SMALL, "--trials", "1", "--jobs", "1", option, "--seed", str(number))
            until_trained, until_sync = first_epoch(process, tmp_path, started)
            measured.append(until_trained)
            assert (until_sync is None) is (option == "--no-mlflow")
            assert until_sync is None or until_sync > 0
    logger.info(
        "seconds to the first trained epoch, medians of 5: with MLflow %.2f, without %.2f",
        *map(statistics.median, seconds.values()),
    )


def test_cpu_time_of_the_sync_in_a_default_study(start, tmp_path):
    started = time.monotonic()
    process = start("run", "--budget", "8000", "--trials", "4", "--jobs", str(CORES), "--device", "cpu")

    delays, cpu_seconds = watch(process, tmp_path / "mlflow.db", interval=1.0)

    assert process.returncode == 0, process.stderr.read()
    record = assert_sound(tmp_path, trials=4, study="budget-8000")
    assert len(delays) == record.trained_epochs
    seconds = time.monotonic() - started
    logger.info(
        "sync: %.1f CPU s of %.0f s on %d cores, %.2f %%; median seconds to MLflow %.2f",
        cpu_seconds, seconds, CORES, 100 * cpu_seconds / (CORES * seconds), statistics.median(delays),
    )  # fmt: skip
