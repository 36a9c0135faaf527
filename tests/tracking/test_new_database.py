"""Two new studies that start together on one new MLflow database."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from mlflow.tracking import MlflowClient
from support import MLFLOW_WARNINGS
from tracked_trials import artifacts, points, runs_in

pytestmark = [MLFLOW_WARNINGS, pytest.mark.soak, pytest.mark.timeout(3600)]

REPETITIONS = int(os.environ.get("MNIST_SEARCH_REPETITIONS", "20"))
"""A repetition takes a quarter of a minute on two free cores."""

TINY = (
    "run", "--budget", "1500", "--epochs", "1", "--train-images", "1000", "--val-images", "100",
    "--trials", "1", "--jobs", "1", "--pruner", "none", "--warm-start", "none", "--keep-models", "0",
)  # fmt: skip


def test_both_studies_are_complete_in_mlflow(tmp_path, mnist_dir):
    for repetition in range(REPETITIONS):
        folder = tmp_path / str(repetition)
        folder.mkdir()
        commands = [
            subprocess.Popen(
                [sys.executable, "-m", "mnist_search", *TINY, "--study", name, "--data-dir", mnist_dir,
                 "--storage", f"sqlite:///{name}.db"],
                cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
            for name in ("a", "b")
        ]  # fmt: skip
        outputs = [command.communicate()[0] for command in commands]

        assert [command.returncode for command in commands] == [0, 0], outputs
        assert_complete(MlflowClient(f"sqlite:///{folder}/mlflow.db"), outputs)


def assert_complete(client, outputs):
    parents = {run.data.tags["study"]: run for run in runs_in(client, "study")}
    runs = {run.data.tags["study"]: run for run in runs_in(client)}
    assert parents.keys() == runs.keys() == {"a", "b"}, outputs
    for name, run in runs.items():
        assert run.data.tags["mlflow.parentRunId"] == parents[name].info.run_id
        assert (run.info.status, parents[name].info.status) == ("FINISHED", "FINISHED"), outputs
        assert len(points(client, run.info.run_id, "val_accuracy")) == 1
        assert artifacts(client, run.info.run_id) == {"layers.txt"}
        assert all("runs in MLflow: " in output for output in outputs), outputs
        assert not any("cannot write" in output or "lacks" in output for output in outputs), outputs
