"""StudySync logs the networks whose weights the store keeps, and deletes the others."""

from __future__ import annotations

import time
from pathlib import Path
from urllib.parse import urlparse

import pytest
import sqlalchemy as sa
from support import MLFLOW_WARNINGS
from tracked_trials import artifacts, models_in, runs_in, train

from mnist_search.storage.tables import tracked_runs
from mnist_search.tracking.runs import UID_TAG

pytestmark = [MLFLOW_WARNINGS, pytest.mark.usefixtures("search_study"), pytest.mark.timeout(300)]


def folder_of(model):
    return Path(urlparse(model.artifact_location).path)


def create_model(client, run, name, tags):
    """Create a logged model without files, as a process that is killed then."""
    return client.create_logged_model(
        run.info.experiment_id, name=name, source_run_id=run.info.run_id, tags=tags
    )


def test_models_of_the_best_trials_only_are_kept(search_study, make_sync, client):
    sync = make_sync()
    train(search_study, accuracy=0.5, keep=1)
    sync.sync()
    (first,) = models_in(client)
    train(search_study, accuracy=0.7, keep=1)
    train(search_study, accuracy=0.6, keep=1)

    sync.sync("FINISHED")

    (kept,) = models_in(client)
    assert [trial.model_id for trial in search_study.record().trials] == [None, kept.model_id, None]
    assert (kept.name, kept.tags["study"]) == ("s-trial-1", "s")
    assert not folder_of(first).exists()
    assert "confusion_matrix.png" in artifacts(client, kept.source_run_id)


def test_model_is_logged_once_its_trial_has_been_kept_for_a_while_or_at_the_end(
    search_study, make_sync, client
):
    sync = make_sync(model_seconds=3600)
    train(search_study, accuracy=0.5, keep=1)

    sync.sync()
    assert models_in(client) == []
    sync.sync("FINISHED")

    assert [model.name for model in models_in(client)] == ["s-trial-0"]


def test_pending_model_is_logged_when_its_time_has_come_without_any_other_change(
    search_study, make_sync, client
):
    sync = make_sync(model_seconds=0.5)
    train(search_study, keep=1)
    sync.sync()

    while not models_in(client):
        time.sleep(0.1)
        sync.sync()

    assert len(models_in(client)) == 1


def test_complete_model_is_adopted_and_the_others_of_its_trial_are_deleted(
    search_study, store, make_sync, client
):
    train(search_study, keep=1)
    make_sync().sync()
    (run,), (model,) = runs_in(client), models_in(client)
    tags = {UID_TAG: search_study.record().uid}
    create_model(client, run, "s-trial-0", tags)  # pending
    extra = create_model(client, run, "s-trial-0", tags)
    client.finalize_logged_model(extra.model_id, "READY")
    with store.engine.begin() as connection:
        connection.execute(sa.update(tracked_runs).values(model_id=None))

    make_sync().sync()

    assert [each.model_id for each in models_in(client)] == [model.model_id]
    assert search_study.record().trials[0].model_id == model.model_id


def test_pending_model_is_replaced_by_a_complete_one(search_study, make_sync, client):
    train(search_study)
    make_sync().sync()
    (run,) = runs_in(client)
    pending = create_model(client, run, "s-trial-0", {UID_TAG: search_study.record().uid})
    train(search_study, accuracy=0.4, keep=2)

    make_sync().sync()

    (model,) = models_in(client)
    assert model.model_id != pending.model_id
    assert (str(model.status), model.name) == ("READY", "s-trial-1")


def test_model_deleted_in_the_ui_is_logged_again(search_study, make_sync, client):
    train(search_study, keep=1)
    make_sync().sync()
    (deleted,) = models_in(client)
    client.delete_logged_model(deleted.model_id)

    make_sync().sync()

    (model,) = models_in(client)
    assert model.model_id != deleted.model_id
    assert search_study.record().trials[0].model_id == model.model_id


def test_models_of_other_stores_and_users_are_not_deleted(search_study, make_sync, client):
    train(search_study)
    make_sync().sync()
    (run,) = runs_in(client)
    other = client.create_run(run.info.experiment_id)
    models = [
        create_model(client, other, "s-trial-0", {"study": "s"}),  # version 0.1, another store
        create_model(client, other, "s-trial-0", {UID_TAG: "another"}),
        create_model(client, run, "by-hand", {}),
    ]

    make_sync().sync()

    assert {model.model_id for model in models_in(client)} == {model.model_id for model in models}


def test_damaged_weights_give_a_message_and_no_model(search_study, store, make_sync, client, messages):
    train(search_study, keep=1)
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE mnist_search_weights SET sha256 = 'x'")

    make_sync().sync()

    assert models_in(client) == []
    assert len(messages) == 1
    assert "weights of trial 0" in messages[0]
