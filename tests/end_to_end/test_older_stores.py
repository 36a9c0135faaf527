"""Stores that version 0.1.0 (commit 08eb057) wrote are read and continued."""

from __future__ import annotations

import json
import shutil

import pytest
from support import ROOT

ASSETS = ROOT / "tests" / "assets"


@pytest.fixture
def small_store(tmp_path):
    """Three trials: budget 1500, 2 epochs, seed 7, no pruner, 1,000 and 500 images, no warm start."""
    shutil.copy(ASSETS / "small-08eb057.db", tmp_path / "mnist-search.db")


@pytest.fixture
def large_store(tmp_path):
    """Three studies with finals of two of them and the reproductions; weights of one trial and one final."""
    shutil.copy(ASSETS / "store-08eb057.db", tmp_path / "mnist-search.db")


def trials_of(command, study):
    return json.loads(command("trials", study, "--format", "json").out)


@pytest.mark.usefixtures("small_store")
def test_run_continues_an_older_study_under_its_stored_options(command, mnist_dir):
    done = command("run", "--budget", "1500", "--trials", "4", "--no-mlflow", "--data-dir", mnist_dir)

    assert done.code == 0, done.err
    trials = trials_of(command, "budget-1500")
    assert [trial["state"] for trial in trials] == ["COMPLETE"] * 4
    assert [trial["epochs"] for trial in trials] == [2] * 4


@pytest.mark.usefixtures("small_store")
def test_run_refuses_a_given_option_that_differs_from_the_stored_one(command):
    done = command("run", "--budget", "1500", "--trials", "4", "--epochs", "3", "--seed", "7")

    assert done.code == 65
    assert "epochs is 2, not 3" in done.err
    assert "seed" not in done.err
    assert len(trials_of(command, "budget-1500")) == 3


@pytest.mark.usefixtures("small_store")
def test_run_without_trials_keeps_the_stored_number(command):
    done = command("run", "--budget", "1500", "--no-mlflow")

    assert done.code == 0, done.err
    assert len(trials_of(command, "budget-1500")) == 3


@pytest.mark.usefixtures("large_store")
def test_finished_older_study_is_a_no_op_under_newer_defaults(command):
    done = command("run", "--budget", "8000", "--trials", "20", "--no-mlflow")

    assert done.code == 0, done.err
    assert len(trials_of(command, "budget-8000")) == 20


@pytest.mark.usefixtures("large_store")
def test_finals_and_compare_read_an_older_store(command):
    finals = json.loads(command("finals", "budget-8000", "--format", "json").out)
    rows = json.loads(command("compare", "--format", "json").out)

    assert [row["name"] for row in finals] == ["trial 0", "trial 19", "trial 4"]
    assert {row["n_seeds"] for row in finals} == {5}
    assert {"budget-8000", "budget-4000", "budget-7204", "seed-000"} <= {row["name"] for row in rows}


@pytest.mark.usefixtures("large_store")
def test_an_older_champion_is_exported_and_verified(command, mnist_dir, tmp_path):
    exported = command("export", "budget-8000", "--to", "safetensors")
    verified = command("verify", "budget-8000.safetensors", "--data-dir", mnist_dir, "--format", "json")

    assert exported.code == 0, exported.err
    assert verified.code == 0, verified.err
    card = json.loads((tmp_path / "budget-8000.json").read_text())
    document = json.loads(verified.out)
    assert document["parameters"] == card["parameters"]
    assert document["test_accuracy"] == pytest.approx(card["test_accuracy"], abs=2e-4)


@pytest.mark.usefixtures("large_store")
def test_a_report_of_an_older_study_holds_its_trials_and_finals(command, mnist_dir, tmp_path):
    done = command("report", "budget-8000", "--no-mlflow", "--data-dir", mnist_dir)

    assert done.code == 0, done.err
    page = (tmp_path / "report.html").read_text()
    assert "trial 19" in page
