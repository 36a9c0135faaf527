"""The verb doctor."""

from __future__ import annotations

import json
import shutil

import pytest
from support import MLFLOW_WARNINGS, digest, text_file
from tracked_trials import runs_in, train

from mnist_search.cli.app import run_cli
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store
from mnist_search.storage.tracked import TrackedStudy
from mnist_search.tracking.config import make_tracking_config

pytestmark = MLFLOW_WARNINGS
CHECKS = ["software", "device", "SQLite", "data", "store", "clock", "MLflow", "store and MLflow"]


@pytest.fixture
def doctor(capsys, mnist_dir):
    """Run the verb: exit code, results by check, stderr."""

    def call(*options):
        code = run_cli(["doctor", "--data-dir", str(mnist_dir), "--format", "json", *options])
        printed = capsys.readouterr()
        rows = json.loads(printed.out)
        assert [row["check"] for row in rows] == CHECKS
        return code, {row["check"]: (row["result"], row["details"]) for row in rows}, printed.err

    return call


@pytest.fixture
def synced(tmp_path, study_config, empty_database, mnist_dir):
    """A study in the default store whose trial is in MLflow; a client."""
    from mlflow.tracking import MlflowClient

    from mnist_search.tracking.sync import StudySync

    store = Store.open_or_create(f"sqlite:///{tmp_path}/mnist-search.db")
    train(SearchStudy.open_or_create(store, "s", study_config, 2))
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    config = make_tracking_config(f"sqlite:///{tmp_path}/mlflow.db", "mnist-search")
    StudySync(TrackedStudy(store, "s"), config, mnist_dir, print).sync("FINISHED")
    return MlflowClient(config.tracking_uri)


def test_fresh_folder_has_nothing_to_check_and_stays_empty(doctor, tmp_path):
    code, checks, err = doctor()

    assert (code, err) == (0, "")
    assert {name: result for name, (result, _) in checks.items()} == dict.fromkeys(
        CHECKS[:4], "ok"
    ) | dict.fromkeys(CHECKS[4:], "-")
    assert "create one with mnist-search run" in checks["store"][1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("synced")
def test_sound_study_has_no_problem_and_nothing_is_written(doctor, tmp_path):
    before = digest(tmp_path)

    code, checks, _ = doctor()

    assert code == 0
    assert {result for result, _ in checks.values()} == {"ok"}
    assert (
        checks["store and MLflow"][1]
        == "every trained trial has its run; compared studies, finals included: 1"
    )
    assert digest(tmp_path) == before


def test_missing_run_is_a_problem_with_the_next_command(doctor, synced):
    (run,) = runs_in(synced)
    synced.delete_run(run.info.run_id)

    code, checks, err = doctor()

    assert code == 78
    assert err == "mnist-search: 1 of 8 checks found a problem: store and MLflow\n"
    result, details = checks["store and MLflow"]
    assert result == "problem"
    assert details.startswith("trial 0 of s has 0 runs; the next run, resume or finalize")


def test_every_check_runs_after_a_problem(doctor, tmp_path):
    text_file(tmp_path / "list.txt")

    code, checks, _ = doctor(
        "--storage", f"sqlite:///{tmp_path}/list.txt", "--tracking-uri", "http://127.0.0.1:9"
    )

    assert code == 78
    problems = [name for name, (result, _) in checks.items() if result == "problem"]
    assert problems == ["store", "clock", "MLflow", "store and MLflow"]


def test_wrong_data_are_a_problem(capsys, tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"no images")

    code = run_cli(["doctor", "--data-dir", str(tmp_path)])

    printed = capsys.readouterr()
    assert code == 78
    (line,) = [line for line in printed.out.splitlines() if line.startswith("data ")]
    assert "problem" in line
    assert "train-images-idx3-ubyte" in line
