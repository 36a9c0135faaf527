"""Verbs that evaluate on the test set."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import psutil
import pytest

from mnist_search.storage import leases
from mnist_search.storage.database import Store
from mnist_search.storage.finals import FinalsStudy


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("reproduce", "seed-9"), 66, "no baseline 'seed-9'"),
        (("reproduce", "all", "--data-dir", "nowhere"), 69, "nowhere is not a folder"),
        (("finalize", "budget-1500"), 66, "no study store"),
        (("finals", "budget-1500"), 66, "no study store"),
        (("finalize", "budget-1500", "--seeds", "0"), 2, "--seeds"),
    ],
)
def test_errors_are_one_line_and_create_nothing(command, tmp_path, arguments, code, message):
    result = command(*arguments)

    assert (result.code, result.out) == (code, "")
    assert message in result.err
    assert result.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_finals_continue_after_kill_9_and_are_evaluated_once(command, mnist_dir, tmp_path):
    data = ("--data-dir", mnist_dir)
    quick = ("--epochs", "1", "--train-images", "1000", "--val-images", "500", "--no-mlflow")
    assert command("run", "--budget", "1500", "--trials", "2", *quick, *data).code == 0
    finalize = ("finalize", "budget-1500", "--top", "2", "--seeds", "3", "--jobs", "1", "--no-mlflow", *data)
    n_done = kill_during_a_later_training(finalize, tmp_path)

    result = command(*finalize, "--format", "json", timeout=280)
    repeated = command(*finalize)
    finals = command("finals", "budget-1500", "--format", "json")

    assert result.code == 0, result.err
    assert 1 <= n_done == 5 - result.err.count(" complete ")
    assert result.err.count("trained on all 60,000 images with 3 seeds, and evaluated on the test set") == 1
    row, other = json.loads(result.out)
    assert (row["champion"], row["n_val_seeds"], other["n_seeds"], other["n_val_seeds"]) == (True, 2, 0, 2)
    assert row["val_accuracy_mean"] >= other["val_accuracy_mean"]
    assert (row["n_seeds"], row["failed"]) == (3, 0)
    assert row["low"] < row["test_accuracy_mean"] < row["high"]
    assert row["test_accuracy_mean"] > 0.5
    assert repeated.code == 0, repeated.err
    assert " complete " not in repeated.err
    assert json.loads(finals.out) == [row, other]

    refused = command("finalize", "budget-1500", "--top", "1", "--seeds", "3", "--no-mlflow", *data)

    assert (refused.code, refused.out) == (2, "")
    assert "were already evaluated on the test set" in refused.err

    more = command(
        "finalize", "budget-1500", "--top", "2", "--seeds", "4", "--no-mlflow", *data, "-f", "json"
    )

    assert more.code == 0, more.err
    assert more.err.count(" complete ") == 1
    row = json.loads(more.out)[0]

    published = command("export", "budget-1500", "--publish")

    assert published.code == 0, published.err
    card = json.loads((tmp_path / "1500" / "card.json").read_text())
    assert (card["n_seeds"], card["test_accuracy_mean"]) == (4, row["test_accuracy_mean"])
    assert {path.name for path in (tmp_path / "1500").iterdir()} == {
        "model.pt2", "model.onnx", "model.safetensors", "card.json", "card.md",
    }  # fmt: skip
    assert command("verify", "1500/model.safetensors", *data).code == 0


def kill_during_a_later_training(finalize, folder):
    """Kill the processes of a command after its first final trial; how many final trials are complete."""
    command = [sys.executable, "-m", "mnist_search", *map(str, finalize)]
    with psutil.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        while " complete " not in process.stderr.readline():
            assert process.poll() is None
        store = Store.open(f"sqlite:///{folder}/mnist-search.db")
        deadline = time.monotonic() + 60
        while not leases.statuses(store):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        for each in [*process.children(recursive=True), process]:
            each.send_signal(signal.SIGKILL)
    return [trial.state for trial in FinalsStudy.open(store, "budget-1500.finals").record().trials].count(
        "COMPLETE"
    )
