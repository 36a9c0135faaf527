"""Experiment, parent run and database of a real MLflow."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from support import MLFLOW_WARNINGS, free_port
from tracked_trials import runs_in

from mnist_search.search.study import SearchStudy
from mnist_search.storage.finals import FinalsStudy, finals_uid, name_of_finals
from mnist_search.storage.tracked import TrackedStudy
from mnist_search.tracking.config import make_tracking_config
from mnist_search.tracking.setup import create_database, open_tracking

pytestmark = MLFLOW_WARNINGS


def test_parent_run_has_the_study_config_as_params(search_study, study, config, client):
    tracking = open_tracking(config, study)

    run = client.get_run(tracking.parent_run_id)
    assert run.data.params["budget"] == "1500"
    assert run.data.params["width"] == str(search_study.config.space.width)
    assert (run.data.tags["role"], run.data.tags["study.uid"], run.data.tags["study"]) == (
        "study",
        study.uid,
        "s",
    )


def test_experiment_and_parent_run_are_the_same_when_opened_again(study, config):
    first, again = open_tracking(config, study), open_tracking(config, study)

    assert (again.experiment_id, again.parent_run_id) == (first.experiment_id, first.parent_run_id)


def test_study_stays_in_the_experiment_that_its_first_command_named(study, config, client):
    first = open_tracking(replace(config, experiment_name="mine"), study)

    again = open_tracking(config, study)

    assert again.experiment_id == first.experiment_id
    assert client.get_experiment_by_name("experiment") is None


def test_parent_run_is_found_by_its_uid_when_the_study_does_not_remember_it(
    study, config, client, search_study
):
    first = open_tracking(replace(config, experiment_name="mine"), study)
    search_study.study.set_user_attr("mlflow", {})

    again = open_tracking(config, study)

    assert again.parent_run_id == first.parent_run_id
    assert len(runs_in(client, "study", ViewType.ALL)) == 1


def test_parent_run_without_params_gets_them(study, config, client, search_study):
    first = open_tracking(config, study)
    client.delete_run(first.parent_run_id)
    experiment_id, uid = first.experiment_id, study.uid
    bare = client.create_run(experiment_id, tags={"role": "study", "study.uid": uid})
    search_study.study.set_user_attr("mlflow", {})

    again = open_tracking(config, study)

    assert again.parent_run_id == bare.info.run_id  # an active run before a deleted one
    assert client.get_run(again.parent_run_id).data.params["budget"] == "1500"


def test_two_studies_share_an_experiment_and_have_a_parent_run_each(
    study, store, study_config, config, search_study
):
    SearchStudy.open_or_create(store, "t", study_config, n_trials=1)
    finals = FinalsStudy.open_or_create(store, name_of_finals("s"), finals_uid(search_study.record().uid))

    of_search, of_other = open_tracking(config, study), open_tracking(config, TrackedStudy(store, "t"))
    of_finals = open_tracking(config, TrackedStudy(store, finals.name))

    assert of_search.experiment_id == of_other.experiment_id
    assert of_search.parent_run_id != of_other.parent_run_id
    assert of_finals.parent_run_id == of_search.parent_run_id


def test_deleted_experiment_of_the_configured_name_is_restored(study, config, client):
    experiment_id = client.create_experiment("experiment")
    client.delete_experiment(experiment_id)

    tracking = open_tracking(config, study)

    assert tracking.experiment_id == experiment_id
    assert client.get_experiment(experiment_id).lifecycle_stage == "active"


def test_unreachable_server_raises(study, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    with pytest.raises(MlflowException):
        open_tracking(make_tracking_config(f"http://127.0.0.1:{free_port()}", "experiment"), study)


CREATE = """
import sys, sqlite3
from pathlib import Path
from mnist_search.process_env import set_defaults
set_defaults()
from mnist_search.tracking.runs import raise_log_levels
from mnist_search.tracking.setup import create_database
raise_log_levels()
sys.stdin.readline()
create_database(Path(sys.argv[1]))
names = {name for (name,) in sqlite3.connect(sys.argv[1]).execute("SELECT name FROM sqlite_master")}
print(len(names))
"""


def create_in_two_processes(file):
    """Create one database from two processes; the number of tables that each sees."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", CREATE, file],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    return [int(process.communicate()[0].splitlines()[-1]) for process in processes]


def n_tables(file):
    from mnist_search.sqlite import query

    return query(file, "SELECT count(*) FROM sqlite_master")[0][0]


@pytest.mark.parametrize(
    "repetitions",
    [
        pytest.param(2, marks=pytest.mark.slow),
        pytest.param(20, marks=[pytest.mark.soak, pytest.mark.timeout(1200)]),
    ],
)
def test_two_processes_that_create_one_database_both_see_it_complete(tmp_path, empty_database, repetitions):
    expected = n_tables(empty_database)
    for repetition in range(repetitions):
        folder = tmp_path / str(repetition)
        folder.mkdir()

        assert create_in_two_processes(folder / "mlflow.db") == [expected, expected]
        assert {path.name for path in folder.iterdir()} <= {"mlflow.db", ".mlflow.db.lock"}


def test_remains_of_a_killed_process_do_not_matter(tmp_path, empty_database):
    file = tmp_path / "mlflow.db"
    (tmp_path / ".mlflow.db.1.new").write_bytes(b"half of a database")
    (tmp_path / ".mlflow.db.lock").touch()

    create_database(file)

    assert n_tables(file) == n_tables(empty_database)


def test_file_that_appears_during_the_creation_is_not_overwritten(tmp_path):
    file = tmp_path / "mlflow.db"
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", CREATE, file], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    process.stdin.write("\n")
    process.stdin.flush()
    while not list(tmp_path.glob(".mlflow.db.*.new")):
        assert process.poll() is None
    file.write_text("of another program")

    process.communicate()

    assert file.read_text() == "of another program"
    assert list(tmp_path.glob(".mlflow.db.*.new")) == []


def test_folder_that_is_not_writable_raises(tmp_path):
    with pytest.raises(OSError, match="none"):
        create_database(tmp_path / "none" / "mlflow.db")


def test_configuration_accepts_a_created_database(empty_database):
    config = make_tracking_config(f"sqlite:///{empty_database}", "experiment")

    assert config.artifact_root == str(empty_database.parent / "mlartifacts")
