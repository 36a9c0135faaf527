"""The benchmark measures what its results say, with real parts."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import MLFLOW_WARNINGS

from experiments import BASELINES
from mnist_search.bench import overhead, reference, suite
from mnist_search.bench.handwritten_loop import PilDigits, baseline_transforms, handwritten_loop
from mnist_search.bench.measurement import ratio_result, result, start_processes
from mnist_search.bench.studies import handwritten_study, ratio_note
from mnist_search.data.dataset import Digits
from mnist_search.training.model import MEAN, STD
from search_space.training_config import Augmentation

STABLE_NAMES = {
    "budget.count_us",
    "suggest.ms",
    "help.seconds",
    "handwritten_loop.ratio",
    "handwritten_loop.core_ratio",
    "fit.epoch_seconds",
    "fit.matmul_percent",
    "sync.cpu_seconds_per_trial",
    "sync.cpu_percent",
    "parallel.ratio",
    "handwritten_study.ratio",
    "worker.rss_mib",
}


def test_result_is_the_median_of_its_rounds_with_their_range():
    speed = result("speed", "images/s", [3.0, 1.0, 2.0])

    assert (speed.min, speed.median, speed.max) == (1.0, 2.0, 3.0)


def test_ratio_is_computed_in_each_round():
    ratio = ratio_result("speed.ratio", [10.0, 30.0], [5.0, 10.0], "fast / slow")

    assert (ratio.min, ratio.max, ratio.unit) == (2.0, 3.0, "x")


def test_reference_has_about_7500_parameters_within_its_budget():
    recipe = reference.recipe()

    assert 7_400 < recipe.architecture.num_params() < 7_600
    assert recipe.reported.num_params == recipe.architecture.num_params() <= reference.BUDGET


def test_handwritten_loop_trains_on_normalized_pixels(digits):
    plain = PilDigits(digits, baseline_transforms(Augmentation()))

    image, label = plain[7]

    assert label == digits.labels[7]
    torch.testing.assert_close(image, (digits.images[7] / 255 - MEAN) / STD)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_handwritten_loop_learns_and_counts_its_images(digits, num_workers):
    subset = Digits(digits.images[::5], digits.labels[::5])
    baseline = BASELINES["seed-001"]
    recipe = replace(baseline, training=replace(baseline.training, batch_size=100))

    images, losses, accuracies = zip(*handwritten_loop(recipe, subset, num_workers, epochs=2), strict=True)

    assert images == (100,) * 20
    assert losses[-1] < losses[0]
    assert accuracies[-1] > accuracies[9]  # accuracy is counted from zero in each epoch


@pytest.mark.slow
def test_handwritten_study_logs_every_step(mnist_dir, tmp_path):
    storage, tracking_uri = (f"sqlite:///{tmp_path / name}" for name in ("study.db", "mlflow.db"))
    # The study configures MLflow for its whole process.
    with start_processes(1, mnist_dir, "cpu", one_thread=True) as pool:
        rate = pool.submit(handwritten_study, mnist_dir, "cpu", storage, tracking_uri, 384).result()

    assert rate > 0

    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        query = "SELECT count(*) FROM metrics WHERE key = 'train_loss' GROUP BY run_uuid"
        assert database.execute(query).fetchall() == [(3,), (3,)]


def test_tasks_run_concurrently_in_processes_of_one_thread(mnist_dir):
    wait_for_both = (
        "touch $PPID.started; while [ $(ls *.started | wc -l) -lt 2 ]; do sleep 0.1; done; echo $PPID"
    )
    with start_processes(2, mnist_dir, "cpu", one_thread=True) as pool:
        processes = pool.map(subprocess.check_output, [["sh", "-c", wait_for_both]] * 2)
        assert len(set(processes)) == 2
        assert pool.submit(torch.get_num_threads).result() == 1


@pytest.mark.parametrize("measure", [overhead.budget_count, overhead.suggestion])
def test_overhead_is_measured_in_every_round(measure):
    measured = measure(rounds=2)

    assert 0 < measured.min <= measured.median <= measured.max


@MLFLOW_WARNINGS
@pytest.mark.slow
def test_cpu_time_of_the_sync_is_measured(mnist_dir, tmp_path):
    seconds, percent = overhead.sync_overhead(mnist_dir, tmp_path, images_per_second=50_000.0)

    assert seconds.median > 0
    assert percent.median == pytest.approx(100 * seconds.median / overhead.EPOCHS)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_bench_prints_stable_names(command, mnist_dir):
    run = command("bench", "--quick", "--format", "json", "--data-dir", mnist_dir, timeout=580)

    assert run.code == 0, run.err
    results = {each["name"]: each for each in json.loads(run.out)}
    assert results.keys() >= STABLE_NAMES
    assert all(each["min"] <= each["median"] <= each["max"] for each in results.values())
    assert list(Path.cwd().iterdir()) == []


def test_ratio_of_one_worker_is_explained():
    assert ratio_note([1], 1) == "1 by definition: one core, so one worker"
    assert ratio_note([1, 2], 1) == "1 by definition: one worker was faster than 2"
    assert ratio_note([1, 2], 2) == "2 workers / 1"


@pytest.mark.parametrize(("load", "warns"), [(0.5, False), (1.1, True)])
def test_busy_machine_is_warned_about(load, warns):
    warning = suite.busy_warning(load, 2)

    assert (warning is not None) == warns
    assert not warns or "load average of 1.1 on 2 cores" in warning
