"""The research scripts reproduce the tables of the log from small or committed data."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from statistics import mean

import numpy as np
import pytest
import torch
import typer
from optuna.pruners import MedianPruner, NopPruner
from support import ROOT

from experiments import BASELINES
from mnist_search.data.dataset import Digits, Split
from mnist_search.records import EpochMetrics, TrialRecord
from mnist_search.research import (
    compare_finals,
    compare_proposals,
    compare_pruners,
    compare_schedules,
    compare_searches,
    compare_studies,
    diagnose_baselines,
    fast_path_accuracy,
    fidelity,
    measure_gpu,
    worker_time,
)
from mnist_search.research.compare_pruners import ReplayedSearch
from mnist_search.research.jsonl import append, read
from mnist_search.search.pruners import PRUNERS

MEASURED = ROOT / "experiments" / "measured"

RISING = [[0.1, 0.5, 0.9], [0.1, 0.5, 0.8]]
FLAT = [[0.2, 0.2, 0.2], [0.2, 0.2, 0.2]]

RUN_PART = """
import pathlib, sys
from mnist_search.research.jsonl import run_part

tasks = [({"n": n}, lambda n=n: {"square": [n * n]}) for n in range(4)]
run_part(pathlib.Path(sys.argv[1]), tasks, int(sys.argv[2]), 2)
"""


def test_run_part_adds_only_the_results_that_the_file_lacks(tmp_path):
    file = tmp_path / "results.jsonl"
    append(file, {"n": 2, "square": ["stored"]})

    lengths = []
    for part in ("1", "0"):  # each in a new process, since run_part limits the threads of its process
        subprocess.run([sys.executable, "-c", RUN_PART, file, part], check=True)
        lengths.append(len(read(file)))

    assert 1 < lengths[0] < lengths[1] == 4
    squares = {line["n"]: line["square"] for line in read(file)}
    assert squares == {0: [0], 1: [1], 2: ["stored"], 3: [9]}


def test_diagnosed_baseline_is_trained_by_both_loops(digits):
    subset = Digits(digits.images[::5], digits.labels[::5])
    variant = diagnose_baselines.variants()["seed-003, no dropout, no augmentation"]
    recipe = replace(variant.recipe, training=replace(variant.recipe.training, epochs=3))

    project, handwritten = (
        diagnose_baselines.run_variant(diagnose_baselines.Variant(recipe, handwritten=flag), subset)
        for flag in (False, True)
    )

    assert [len(project["curve"]), len(handwritten["curve"])] == [3, 2]
    for curve in (project["curve"], handwritten["curve"]):
        assert 0 < curve[0]["train_accuracy"] < curve[-1]["train_accuracy"] <= 1
        assert curve[-1]["train_loss"] < curve[0]["train_loss"]
    assert project["plain_accuracy"] > project["curve"][0]["train_accuracy"]
    assert project["plain_loss"] < project["curve"][0]["train_loss"]


def test_diagnosed_variants_change_one_setting():
    variants = diagnose_baselines.variants()
    originals = {name: BASELINES[name] for name in ("seed-000", "seed-003")}

    changed = variants["seed-000, 7 degrees"].recipe.training
    original = originals["seed-000"].training
    assert replace(changed, augmentation=original.augmentation) == original
    assert variants["seed-003, no dropout"].recipe.training == originals["seed-003"].training
    unchanged = {name for name, variant in variants.items() if variant.recipe in originals.values()}
    assert unchanged == {"seed-000", "seed-000, the seeds' loop", "seed-003"}


@pytest.mark.parametrize(
    ("script", "file", "row"),
    [
        (diagnose_baselines, "claims.jsonl", "| seed-003 | 55.70 | 85.81 | 19: 96.41 | 0.1248 | 98.99 | 0.0317 |"),
        (compare_searches, "searching.jsonl", "| TPE, filled | 3 | 98.443 (0.198) | 97.95 | 98.64 | 97.32 | 0 |"),
        (compare_schedules, "schedules-10000.jsonl", "| one cycle with cycled momentum | 10 | 99.020 (0.090) | +0.020 | "),
        (fidelity, "fidelity-20000.jsonl", "| val_accuracy, averaged, after epoch 3 | 3 | 0.87 | 0.81 | 0.86 |"),
        (fast_path_accuracy, "accuracy.jsonl", "| seed-000 | fast | loss, last epoch | 17 | 0.03550 (0.00381) | 0.03409 (0.00234) | "),
    ],
)  # fmt: skip
def test_report_reads_the_committed_results(capsys, script, file, row):
    script.report(MEASURED / file)

    assert row in capsys.readouterr().out


@pytest.mark.slow
def test_profile_lists_the_operators_of_a_step(mnist_dir):
    profile = subprocess.run(
        [sys.executable, "-m", "mnist_search.research.profile_step", "profile", "reference", "--data-dir", mnist_dir],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert "aten::convolution_backward" in profile.stdout


def test_replayed_search_is_scored_by_the_training_that_it_did_not_see():
    search = compare_pruners.replay(
        [RISING, FLAT], order=(0, 1), training=0, pruner=NopPruner(), epoch_budget=6
    )

    assert search == ReplayedSearch(accuracy=0.8, started=2, completed=2, epochs=6)


def test_replayed_search_ends_when_its_epochs_are_used_up():
    search = compare_pruners.replay(
        [RISING] * 5, order=range(5), training=1, pruner=NopPruner(), epoch_budget=3
    )

    assert search == ReplayedSearch(accuracy=0.9, started=1, completed=1, epochs=3)


def test_pruner_stops_a_replayed_training():
    pruner = MedianPruner(n_startup_trials=1, n_warmup_steps=0)
    networks = [[[0.05, 0.05, 0.05]] * 2, RISING]

    search = compare_pruners.replay(networks, order=(1, 0), training=0, pruner=pruner, epoch_budget=4)

    assert search == ReplayedSearch(accuracy=0.8, started=2, completed=1, epochs=4)


@pytest.mark.slow
@pytest.mark.parametrize("name", compare_searches.searches(0))
def test_compared_search_trains_only_networks_within_the_budget(name, small_split):
    search = compare_searches.search(compare_searches.searches(0)[name], small_split, trials=2)

    assert len(search["curve"]) == 2
    assert search["num_params"] <= compare_searches.BUDGET
    assert all(0 < accuracy < 1 for accuracy in search["again"])
    assert (search["over"] > 0) == name.startswith("plain")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mutation", "tpe and mutation"])
@pytest.mark.parametrize("has_templates", [True, False])
def test_proposals_are_trained_once_and_the_best_again(name, has_templates, small_split, tmp_path, capsys):
    result = compare_proposals.search(
        name, 0, small_split, small_split.val, has_templates=has_templates, trials=2
    )

    assert result["accuracies"][result["best"]] == max(result["accuracies"])
    assert len(result["accuracies"]) == 2
    assert len(result["again"]) == 5
    append(tmp_path / "r.jsonl", {"sampler": name, "templates": has_templates, "seed": 0} | result)
    compare_proposals.report(tmp_path / "r.jsonl")
    assert f"| {name} | {'yes' if has_templates else 'no'} | 1 | " in capsys.readouterr().out


def test_report_of_searches_lists_only_those_that_have_run(tmp_path, capsys):
    line = {"curve": [0.9, 0.98], "over": 3, "num_params": 7900, "again": [0.97, 0.99]}
    append(tmp_path / "lines", {"arm": "TPE, filled", "seed": 0} | line)

    compare_searches.report(tmp_path / "lines")

    table = capsys.readouterr().out
    assert "| TPE, filled | 1 | 98.000 (nan) | 98.00 | 98.00 | 98.00 | 3 |" in table
    assert "random" not in table


def test_pruners_are_compared_on_the_committed_curves(capsys):
    compare_pruners.curves(MEASURED / "fidelity-20000.jsonl", orders=2, resamples=2)

    table, differences = capsys.readouterr().out.split("Mean over")
    for name in PRUNERS:
        assert sum(line.startswith(f"| {name} | ") for line in table.splitlines()) == 3
        assert (f"| {name} | " in differences) == (name != "none")


def test_rules_are_compared_on_the_committed_curves(capsys):
    compare_pruners.rules(MEASURED / "fidelity-20000.jsonl", orders=2, resamples=2)

    rows = {line.split(" | ")[0]: line for line in capsys.readouterr().out.splitlines() if "|" in line}
    assert "| 15.0 | 40.0 |" in rows["| none"]
    assert " | +0.000 | +0.000 to +0.000 |" in rows["| halving from epoch 5, raw"]


def interval(started, completed, seconds):
    """A trial of one epoch of so many seconds, and its start and end in seconds."""
    epoch = datetime(2026, 11, 27, tzinfo=UTC)
    return TrialRecord(
        number=0, trial_id=0, state="COMPLETE", params={}, num_params=1, val_accuracy=0.9, val_loss=0.1,
        curve=[EpochMetrics(epoch=1, seconds=seconds)],
        started=epoch + timedelta(seconds=started), completed=epoch + timedelta(seconds=completed),
    )  # fmt: skip


def test_share_outside_of_epochs_counts_the_time_between_trials_of_a_worker():
    first = [interval(0, 10, 9), interval(12, 20, 8)]
    second = [interval(1, 13, 11)]

    assert worker_time.assign([*second, *first]) == [[first[0], first[1]], second]
    assert worker_time.share_outside_epochs([*first, *second]) == pytest.approx(1 - 28 / 32)


def test_studies_are_compared_by_networks_that_were_trained_again(tmp_path, capsys):
    file = tmp_path / "studies.jsonl"
    trial = {"epochs": 5, "state": "COMPLETE", "val_accuracy": 0.9, "number": 0}
    for variant, accuracy in (("asha", 0.98), ("screening", 0.99)):
        for seed in (0, 1):
            key = {"variant": variant, "seed": seed}
            study = {"trials": [trial], "outside_epochs": 0.05, "found_trial": 0}
            append(file, {"kind": "study"} | key | study)
            for network, score_seed in product(("found", "template"), compare_studies.SCORE_SEEDS):
                again = {"network": network, "score_seed": score_seed, "accuracy": accuracy + seed / 1000}
                append(file, {"kind": "again"} | key | again)

    compare_studies.report(file)

    lines = capsys.readouterr().out.splitlines()
    assert "| screening | 1 | 5 | 1 | 5.0% | 0 | 90.00 | 99.100 | 99.100 |" in lines
    assert "| screening - asha | 2 | +1.000 | +1.000 to +1.000 |" in lines
    assert "| screening, no templates - screening | 0 |  |  |" in lines


def test_second_validation_images_are_in_no_study():
    train, val = 20_000, 10_000
    order = Split.of(Digits(torch.arange(60_000), torch.arange(60_000)), 50_000, val, 0)
    study = Split.of(Digits(torch.arange(60_000), torch.arange(60_000)), train, val, 0)

    images = {*compare_studies.second_validation(order.train).labels.tolist()}

    assert len(images) == 10_000
    assert not images & {*study.train.labels.tolist(), *study.val.labels.tolist()}


def test_later_networks_are_better_in_an_improving_order():
    networks = [[[0.0], [accuracy / 100]] for accuracy in range(100)]

    order = compare_pruners._improving_order(networks[::-1], seed=0)

    unseen = [network[1][0] for network in order]
    assert sorted(unseen) == [accuracy / 100 for accuracy in range(100)]
    assert mean(unseen[:30]) < 0.4
    assert mean(unseen[-30:]) > 0.6
    assert unseen != sorted(unseen)


def test_rules_of_finals_are_compared_on_the_committed_finals(capsys):
    compare_finals.resample(MEASURED / "studies.db", "budget-8000", draws=500)

    rows = [line.split(" | ")[1:3] for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows == [["best of the search", "5"], ["halving", "8"], ["five more runs of each", "20"]]


def test_halving_selects_the_finalist_with_the_best_mean_of_all_runs():
    runs = np.array([[[0.9, 0.1, 0.0, 0.0, 0.0, 0.0], [0.8, 0.8, 0.5, 0.0, 0.0, 0.0],
                      [0.7, 0.7, 0.9, 0.0, 0.0, 0.0], [0.6, 0.9, 0.8, 0.0, 0.0, 0.0]]])  # fmt: skip

    assert compare_finals.halving(runs).tolist() == [3]  # 0 and 2 drop out, then 1
    assert compare_finals.search_only(runs).tolist() == [0]
    assert compare_finals.n_trainings("halving", 5) == 12


def test_pruners_are_compared_on_a_study_without_a_pruner(capsys, tmp_path):
    shutil.copy(MEASURED / "studies.db", tmp_path)

    compare_pruners.study(tmp_path / "studies.db", "budget-8000", orders=2)

    out = capsys.readouterr().out
    assert out.startswith("20 networks")
    assert "| none | 300 | 99.430 (0.000) | 20.0 | 20.0 |" in out


def test_pruners_are_not_compared_on_a_study_with_pruned_trials(tmp_path):
    shutil.copy(MEASURED / "budget-8000.db", tmp_path)

    with pytest.raises(typer.BadParameter, match="did not complete"):
        compare_pruners.study(tmp_path / "budget-8000.db", "budget-8000", orders=2)


def test_throughput_counts_the_parts_of_epochs_within_a_window():
    assert measure_gpu.epochs_within([1.0, 3.0, 5.0], 2.0, 4.0) == 1.0
    assert measure_gpu.epochs_within([1.0, 3.0], 0.0, 9.0) == 2.0
