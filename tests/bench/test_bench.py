"""The benchmark measures what it says, with real parts."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from optuna.pruners import MedianPruner, NopPruner

from experiments import BASELINES
from mnist_search.bench import overhead, reference
from mnist_search.bench.handwritten_loop import PilDigits, handwritten_loop, seed_transforms, steady_rate
from mnist_search.bench.handwritten_study import handwritten_study
from mnist_search.bench.process_pool import ProcessPool
from mnist_search.bench.result import ratio, row
from mnist_search.bench.suite import effort_for
from mnist_search.data.dataset import Digits
from mnist_search.research import compare_pruners, compare_searches, diagnose_baselines
from mnist_search.research.jsonl import append
from mnist_search.search.pruners import PRUNERS
from mnist_search.training.model import MEAN, STD
from search_space.training_config import Augmentation

MEASURED = Path(__file__).parents[2] / "experiments" / "measured"

STABLE_NAMES = {
    "budget.count_us",
    "suggest.ms",
    "help.seconds",
    "handwritten_loop.ratio",
    "handwritten_loop.core_ratio",
    "fit.epoch_seconds",
    "fit.matmul_percent",
    "logging.tax_percent",
    "parallel.ratio",
    "plain_optuna.ratio",
    "worker.rss_mib",
}


def test_a_row_is_the_median_of_its_rounds_with_their_spread():
    made = row("speed", "images/s", [3.0, 1.0, 2.0])

    assert (made.value, made.min, made.median, made.max) == (2.0, 1.0, 2.0, 3.0)


def test_a_ratio_is_taken_round_by_round():
    made = ratio("speed.ratio", [10.0, 30.0], [5.0, 10.0])

    assert (made.min, made.max, made.unit) == (2.0, 3.0, "x")


def test_the_reference_is_a_net_of_about_7500_parameters_within_its_budget():
    recipe = reference.recipe()

    assert 7_400 < recipe.architecture.num_params() < 7_600
    assert recipe.reported.num_params == recipe.architecture.num_params() <= reference.BUDGET


def test_the_seeds_loop_sees_normalised_pixels(digits):
    plain = PilDigits(digits, seed_transforms(Augmentation()))

    image, label = plain[7]

    assert label == digits.labels[7]
    torch.testing.assert_close(image, (digits.images[7] / 255 - MEAN) / STD)


@pytest.mark.parametrize("loader_processes", [0, 1])
def test_the_seeds_loop_learns_and_counts_its_images(digits, loader_processes):
    told: list[tuple[float, float]] = []
    few = Digits(digits.images[::5], digits.labels[::5])
    seed = BASELINES["seed-001"]
    recipe = replace(seed, training=replace(seed.training, batch_size=100))

    steps = list(handwritten_loop(recipe, few, loader_processes, lambda *step: told.append(step), epochs=2))

    assert steps == [100] * 20
    assert told[-1][0] < told[0][0]
    assert told[-1][1] > told[9][1]  # the second epoch's accuracy is its own, and higher


def test_a_claim_is_looked_into_from_both_sides(digits):
    few = Digits(digits.images[::5], digits.labels[::5])
    told = diagnose_baselines.variants()["seed-003, no dropout, no augmentation"]
    short = replace(told, recipe=replace(told.recipe, training=replace(told.recipe.training, epochs=3)))

    ours, theirs = (
        diagnose_baselines.came_to(short, few),
        diagnose_baselines.came_to(replace(short, by_hand=True), few),
    )

    assert [len(ours["curve"]), len(theirs["curve"])] == [3, 2]
    for curve in (ours["curve"], theirs["curve"]):
        assert 0 < curve[0]["train_accuracy"] < curve[-1]["train_accuracy"] <= 1
        assert curve[-1]["train_loss"] < curve[0]["train_loss"]
    assert ours["plain_accuracy"] > ours["curve"][0]["train_accuracy"]
    assert ours["plain_loss"] < ours["curve"][0]["train_loss"]


def test_claims_change_one_thing_at_a_time():
    variants = diagnose_baselines.variants()
    told = {name: BASELINES[name] for name in ("seed-000", "seed-003")}

    changed = variants["seed-000, 7 degrees"].recipe.training
    assert replace(changed, augmentation=told["seed-000"].training.augmentation) == told["seed-000"].training
    assert variants["seed-003, no dropout"].recipe.training == told["seed-003"].training
    assert {name for name, variant in variants.items() if variant.recipe in told.values()} == {
        "seed-000", "seed-000, the seeds' loop", "seed-003",
    }  # fmt: skip


def test_a_steady_rate_leaves_the_warm_up_out():
    now = 0.0

    def steps():
        nonlocal now
        for seconds, images in ((50.0, 1000), (1.0, 10), (2.0, 20), (100.0, 7)):
            now += seconds
            yield images

    assert steady_rate(steps(), warm_up=1, timed=2, clock=lambda: now) == 30 / 3


def test_the_study_by_hand_logs_every_step(mnist_dir, tmp_path):
    with ProcessPool(1, one_thread=True) as crew:  # it sets MLflow up for its whole process
        store, runs = (f"sqlite:///{tmp_path / name}" for name in ("study.db", "mlflow.db"))
        assert crew.run_one(handwritten_study, mnist_dir, "cpu", store, runs, train_images=384) > 0

    with sqlite3.connect(tmp_path / "mlflow.db") as runs:
        logged = runs.execute("SELECT count(*) FROM metrics WHERE key = 'train_loss' GROUP BY run_uuid")
        assert logged.fetchall() == [(3,), (3,)]


def test_counting_and_proposing_are_measured():
    assert 0 < overhead.budget_count(rounds=1).value < 10_000
    assert 0 < overhead.suggestion(rounds=1).value < 60_000


def test_a_gpu_is_timed_by_whole_epochs():
    assert effort_for("cuda", quick=False).our_steps == 50_000 // 128
    assert effort_for("cpu", quick=False).our_steps < 100
    assert effort_for("cuda", quick=True) == effort_for("cpu", quick=True)


def test_a_clock_hears_every_call_and_the_run_that_one_opens():
    class Slow:
        run_id = "7"

        def start_trial(self):
            return self

        def log_epoch(self):
            return "logged"

    timed = overhead.Timed(Slow())
    run = timed.start_trial()

    assert run.log_epoch() == "logged"
    assert run.run_id == "7"
    assert timed.seconds > 0
    assert run.seconds > 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_bench_prints_stable_names(command, mnist_dir):
    done = command("bench", "--quick", "--format", "json", "--data-dir", mnist_dir, timeout=280)

    assert done.code == 0, done.err
    rows = {each["name"]: each for each in json.loads(done.out)}
    assert rows.keys() >= STABLE_NAMES
    assert all(each["min"] <= each["value"] <= each["max"] for each in rows.values())
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.slow
def test_a_profile_names_the_operators_of_a_step(mnist_dir):
    profiled = subprocess.run(
        [sys.executable, "-m", "mnist_search.research.profile_step", "profile", "reference", "--data-dir", mnist_dir],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert "aten::convolution_backward" in profiled.stdout


RISING = [[0.1, 0.5, 0.9], [0.1, 0.5, 0.8]]
FLAT = [[0.2, 0.2, 0.2], [0.2, 0.2, 0.2]]


def test_a_replayed_search_is_judged_by_the_training_it_did_not_see():
    both = compare_pruners.search([RISING, FLAT], order=0, seen=0, pruner=NopPruner(), allowance=6)

    assert both == compare_pruners.GraphReplayFake(found=0.8, started=2, finished=2)


def test_a_replayed_search_ends_when_its_epochs_are_spent():
    one = compare_pruners.search([RISING] * 5, order=0, seen=1, pruner=NopPruner(), allowance=3)

    assert one == compare_pruners.GraphReplayFake(found=0.9, started=1, finished=1)


def test_a_pruner_ends_a_replayed_training_early():
    pruner = MedianPruner(n_startup_trials=1, n_warmup_steps=0)
    order = np.random.default_rng(0).permutation(2).tolist()
    networks = [FLAT, FLAT]
    networks[order[0]] = RISING
    networks[order[1]] = [[0.05, 0.05, 0.05]] * 2

    pruned = compare_pruners.search(networks, order=0, seen=0, pruner=pruner, allowance=4)

    assert pruned == compare_pruners.GraphReplayFake(found=0.8, started=2, finished=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", compare_searches.arms(0))
def test_every_search_that_is_compared_trains_what_fits(name, small_split):
    arm = compare_searches.arms(0)[name]

    found = compare_searches.search(arm, small_split, trials=2)

    assert len(found["curve"]) == 2
    assert found["num_params"] <= compare_searches.BUDGET
    assert all(0 < accuracy < 1 for accuracy in found["again"])
    assert (found["over"] > 0) == name.startswith("plain")


def test_the_table_of_searches_tells_every_arm_that_has_run(tmp_path, capsys):
    line = {"curve": [0.9, 0.98], "over": 3, "num_params": 7900, "again": [0.97, 0.99]}
    append(tmp_path / "lines", {"arm": "TPE, filled", "seed": 0} | line)

    compare_searches.report(tmp_path / "lines")

    told = capsys.readouterr().out
    assert "| TPE, filled | 1 | 98.000 (nan) | 98.00 | 98.00 | 98.00 | 3 |" in told
    assert "random" not in told


def test_pruners_are_compared_on_measured_curves(capsys):
    compare_pruners.curves(MEASURED / "fidelity-20000.jsonl", orders=2, resamples=2)

    found, more = capsys.readouterr().out.split("Mean over")
    for name in PRUNERS:
        assert sum(line.startswith(f"| {name} | ") for line in found.splitlines()) == 3
        assert (f"| {name} | " in more) == (name != "none")


def test_pruners_are_compared_on_a_study_that_had_none(capsys, tmp_path):
    shutil.copy(MEASURED / "studies.db", tmp_path)

    compare_pruners.study(tmp_path / "studies.db", "budget-8000", orders=2)

    out = capsys.readouterr().out
    assert out.startswith("20 networks")
    assert "| none | 300 | 99.430 (0.000) | 20.0 | 20.0 |" in out


def test_a_study_whose_trials_were_pruned_says_nothing_about_pruners(tmp_path):
    shutil.copy(MEASURED / "budget-8000.db", tmp_path)

    with pytest.raises(typer.BadParameter, match="chose the rest"):
        compare_pruners.study(tmp_path / "budget-8000.db", "budget-8000", orders=2)
