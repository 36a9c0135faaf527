"""StudySync writes finals, and adopts the runs of version 0.1."""

from __future__ import annotations

import json
import shutil
import sqlite3
from dataclasses import replace

import pytest
from mlflow.entities import ViewType
from support import MLFLOW_WARNINGS, ROOT
from tracked_trials import contents, final_task, points, runs_in, start, train, train_final

from mnist_search.storage.database import Store
from mnist_search.storage.finals import BASELINE_FINALS, FinalsStudy, finals_uid, name_of_finals
from mnist_search.storage.tracked import TrackedStudy
from mnist_search.tracking.setup import open_tracking
from mnist_search.tracking.sync import StudySync

pytestmark = MLFLOW_WARNINGS


@pytest.fixture
def finals(search_study, store):
    name, uid = name_of_finals(search_study.name), finals_uid(search_study.record().uid)
    return FinalsStudy.open_or_create(store, name, uid)


def test_finals_are_runs_of_role_final_below_the_parent_run_of_the_search(
    search_study, finals, make_sync, client
):
    train(search_study)
    make_sync().sync("FINISHED")
    finals.add([final_task(), final_task(seed=1)])
    claim = train_final(finals)

    make_sync(finals.name).sync()

    (run,), (parent,) = runs_in(client, "final"), runs_in(client, "study")
    tags = run.data.tags
    assert tags["mlflow.parentRunId"] == parent.info.run_id
    assert (tags["study.uid"], tags["attempt"], tags["study"]) == (finals.record().uid, claim.owner, "s")
    assert (tags["final"], tags["network"], tags["trial"]) == ("0", "trial 3", "3")
    assert (run.data.params["optimizer"], run.data.params["schedule"]) == ("adam", "plateau")
    contexts = [tag.value for data in run.inputs.dataset_inputs for tag in data.tags]
    assert sorted(contexts) == ["testing", "training"]
    assert run.info.run_name == "s final trial 3 seed 0"
    assert points(client, run.info.run_id, "test_accuracy") == [(2, 0.93)]
    assert points(client, run.info.run_id, "test_loss") == [(2, 0.2)]
    assert not any(name.startswith("val_") for name in run.data.metrics)
    assert (run.info.status, run.data.params["final_seed"]) == ("FINISHED", "0")
    assert (parent.data.tags["finals"], parent.info.status) == ("1/2", "FINISHED")
    assert len(runs_in(client)) == 1


def test_final_that_evaluates_every_epoch_has_a_point_per_epoch(finals, make_sync, client):
    finals.add([final_task(evaluate="every epoch")])
    train_final(finals, evaluate="every epoch")

    make_sync(finals.name).sync()

    (run,) = runs_in(client, "final")
    assert points(client, run.info.run_id, "test_accuracy") == [(1, 0.9), (2, 0.9)]


def test_repeated_training_has_a_validation_accuracy_and_no_test_images(finals, make_sync, client):
    finals.add([replace(final_task(seed=100), split=(50_000, 10_000, 0))])
    train_final(finals)

    make_sync(finals.name).sync()

    (run,) = runs_in(client, "final")
    assert run.info.run_name == "s repeat trial 3 seed 100"
    assert run.data.params["evaluated_on"] == "validation images"
    assert points(client, run.info.run_id, "repeat_val_accuracy") == [(2, 0.93)]
    assert points(client, run.info.run_id, "repeat_val_loss") == [(2, 0.2)]
    assert not any(name.startswith(("test_", "val_")) for name in run.data.metrics)
    contexts = [tag.value for data in run.inputs.dataset_inputs for tag in data.tags]
    assert contexts == ["training"]


def test_second_process_writes_no_final_twice(search_study, finals, make_sync, client):
    train(search_study)
    finals.add([final_task()])
    train_final(finals)
    for _ in range(2):
        make_sync(finals.name).sync("FINISHED")
        make_sync().sync("FINISHED")
    before = contents(client)

    make_sync(finals.name).sync("FINISHED")
    make_sync().sync("FINISHED")

    assert contents(client) == before
    assert len(before[0]) == 3


def test_finals_of_baselines_have_a_parent_run_of_their_own(search_study, store, make_sync, client):
    train(search_study)
    make_sync().sync()
    baselines = FinalsStudy.open_or_create(store, BASELINE_FINALS)
    baselines.add([final_task("seed-001")])
    train_final(baselines)

    make_sync(BASELINE_FINALS).sync("FINISHED")
    make_sync(BASELINE_FINALS).sync("FINISHED")

    parents = {run.data.tags["study"]: run.info.run_id for run in runs_in(client, "study")}
    assert parents.keys() == {"s", BASELINE_FINALS}
    (run,) = runs_in(client, "final")
    assert run.data.tags["mlflow.parentRunId"] == parents[BASELINE_FINALS]


@pytest.fixture
def old_store(tmp_path):
    """A copy of a store that version 0.1 wrote."""
    path = tmp_path / "old.db"
    shutil.copy(ROOT / "tests" / "assets" / "store-08eb057.db", path)
    return path


def write_old_runs(path, client, tracking, study):
    """Write the runs of a study and of its finals as version 0.1 did; their ids by role."""
    old = sqlite3.connect(path)
    trials = old.execute(
        "SELECT trial_id, number FROM trials JOIN studies USING (study_id) WHERE study_name = ?", (study,)
    ).fetchall()
    uid = old.execute(
        "SELECT value_json FROM study_user_attributes JOIN studies USING (study_id)"
        " WHERE study_name = ? AND key = 'uid'",
        (study,),
    ).fetchone()[0]
    finals = old.execute(
        "SELECT id FROM mnist_search_trainings WHERE series LIKE ?", (f"final/{json.loads(uid)}/%",)
    ).fetchall()

    def write(role, **tags):
        tags |= {"mlflow.parentRunId": tracking.parent_run_id, "role": role}
        run_id = client.create_run(tracking.experiment_id, tags=tags).info.run_id
        client.set_terminated(run_id, "FINISHED")
        return run_id

    ids = {"trial": [], "final": []}
    for trial_id, number in trials:
        ids["trial"].append(write("trial", trial=str(number)))
        row = (ids["trial"][-1], trial_id)
        old.execute("UPDATE mnist_search_mirrored SET run_id = ?, model_id = NULL WHERE trial_id = ?", row)
    for (key,) in finals:
        ids["final"].append(write("final", training=str(key)))
        old.execute("UPDATE mnist_search_trainings SET run_id = ? WHERE id = ?", (ids["final"][-1], key))
    old.commit()
    old.close()
    return ids


def old_tracking(path, study, config):
    """The parent run, in which a process of this version remembers nothing."""
    copy = path.with_name("copy.db")
    shutil.copy(path, copy)
    return open_tracking(config, TrackedStudy(Store.open(f"sqlite:///{copy}", write=True), study))


def sync_all(path, config, data_dir, *names):
    store = Store.open(f"sqlite:///{path}", write=True)
    for name in names:
        StudySync(TrackedStudy(store, name), config, data_dir, lambda _: None).sync("FINISHED")
    return store


@pytest.mark.timeout(400)
def test_runs_of_version_01_are_adopted(old_store, config, client, mnist_dir):
    study = "budget-8000"
    tracking = old_tracking(old_store, study, config)
    ids = write_old_runs(old_store, client, tracking, study)

    for _ in range(2):
        store = sync_all(old_store, config, mnist_dir, study, name_of_finals(study))

    for role in ("trial", "final"):
        assert {run.info.run_id for run in runs_in(client, role, ViewType.ALL)} == set(ids[role])
    assert len(runs_in(client, "study")) == 1
    uid = TrackedStudy(store, study).uid
    assert {run.data.tags["study.uid"] for run in runs_in(client)} == {uid}


def test_run_of_version_01_is_not_that_of_a_later_attempt(search_study, study, config, make_sync, client):
    tracking = open_tracking(config, study)
    tags = {"mlflow.parentRunId": tracking.parent_run_id, "role": "trial", "trial": "0"}
    old = client.create_run(tracking.experiment_id, tags=tags)
    claim = start(search_study, epochs=1)
    study.record_run(search_study.record().trials[0], old.info.run_id, None)

    make_sync().sync()

    (run,) = runs_in(client)
    assert run.info.run_id != old.info.run_id
    assert run.data.tags["attempt"] == claim.owner
