"""Differences between a study and its runs in MLflow."""

from __future__ import annotations

import pytest
from support import MLFLOW_WARNINGS
from tracked_trials import final_task, runs_in, start, train, train_final

from mnist_search.storage.finals import FinalsStudy, finals_uid
from mnist_search.storage.tracked import TrackedStudy
from mnist_search.tracking.check import differences, n_experiments
from mnist_search.tracking.config import make_tracking_config

pytestmark = MLFLOW_WARNINGS


@pytest.fixture
def synced(search_study, make_sync):
    """A study with trials of every state, all of them in MLflow."""
    for state in ("COMPLETE", "PRUNED", "FAIL"):
        train(search_study, state)
    start(search_study, epochs=1)
    make_sync().sync()
    return search_study


@pytest.mark.usefixtures("synced")
def test_synced_study_has_no_differences(study, config):
    assert differences(study, config) == []


def test_study_that_was_never_logged_is_not_compared(search_study, study, config):
    train(search_study)

    assert differences(study, config) is None


def test_synced_finals_have_no_differences(synced, store, make_sync, config):
    finals = FinalsStudy.open_or_create(store, "s.finals", finals_uid(synced.record().uid))
    finals.add([final_task()])
    train_final(finals)
    make_sync("s.finals").sync()

    assert differences(TrackedStudy(store, "s.finals"), config) == []


def test_missing_doubled_and_changed_runs_are_named(synced, study, config, client):
    first, second, third, _ = runs_in(client)
    client.delete_run(first.info.run_id)
    client.set_terminated(second.info.run_id, "FINISHED")
    client.log_metric(third.info.run_id, "val_accuracy", 0.1, step=2)
    copied = client.create_run(third.info.experiment_id, tags=third.data.tags)
    foreign = client.create_run(third.info.experiment_id, tags={**third.data.tags, "trial": "77"})
    train(synced)

    assert differences(study, config) == [
        "trial 0 of s has 0 runs",
        "trial 1 of s: status is FINISHED in MLflow, KILLED in the store",
        "trial 2 of s has 2 runs",
        "trial 4 of s has 0 runs",
        f"run {foreign.info.run_id} is of no trial of s",
    ]
    client.delete_run(copied.info.run_id)
    assert differences(study, config)[2] == "trial 2 of s: val_accuracy is 0.1 in MLflow, 0.5 in the store"


def test_database_that_does_not_exist_is_not_created(tmp_path):
    config = make_tracking_config(f"sqlite:///{tmp_path}/new.db", "experiment")

    assert n_experiments(config) is None
    assert not (tmp_path / "new.db").exists()
