"""Deletion of what MLflow has of a study."""

from __future__ import annotations

import pytest
from mlflow.entities import ViewType
from support import MLFLOW_WARNINGS
from tracked_trials import final_task, models_in, runs_in, train, train_final

from mnist_search.search.study import SearchStudy
from mnist_search.storage.finals import FinalsStudy, finals_uid, name_of_finals
from mnist_search.tracking.config import make_tracking_config
from mnist_search.tracking.deletion import delete_from_mlflow
from mnist_search.tracking.models import register
from mnist_search.tracking.runs import is_deleted
from mnist_search.tracking.views import VIEW_PREFIX, view_id

pytestmark = MLFLOW_WARNINGS


@pytest.fixture
def uids(search_study, store):
    """Uids of a study and of its finals, which have runs, one logged model and one registered version."""
    uid = search_study.record().uid
    finals = FinalsStudy.open_or_create(store, name_of_finals("s"), finals_uid(uid))
    finals.add([final_task()])
    train(search_study, keep=1)
    train_final(finals)
    return [uid, finals_uid(uid)]


def test_runs_models_and_registered_versions_of_a_study_are_deleted(
    uids, store, study_config, make_sync, client, config
):
    other = SearchStudy.open_or_create(store, "other", study_config, 5)
    train(other)
    for name in ("s", "s.finals", "other"):
        make_sync(name).sync("FINISHED")
    (model,) = models_in(client)
    register(client, "mnist-search-1500", model.model_id, model.source_run_id, {})

    deleted = delete_from_mlflow(config, uids, [])
    again = delete_from_mlflow(config, uids, [])

    assert (deleted, again) == ((3, 1, 1), (0, 0, 0))
    assert models_in(client) == client.search_registered_models() == []
    left = [run for role in ("study", "trial", "final") for run in runs_in(client, role)]
    assert {run.data.tags["study.uid"] for run in left} == {other.record().uid}
    assert [is_deleted(run) for run in runs_in(client, "final", ViewType.ALL)] == [True]
    (parent,) = runs_in(client, "study")
    tags = client.get_experiment(parent.info.experiment_id).tags
    assert [tag for tag in tags if tag.startswith(VIEW_PREFIX)] == [VIEW_PREFIX + view_id(parent.info.run_id)]


def test_runs_that_only_the_store_links_are_deleted(client, config):
    old = client.create_run("0").info.run_id

    deleted = delete_from_mlflow(config, ["no such uid"], [old, "no-such-run"])

    assert deleted == (1, 0, 0)
    assert is_deleted(client.get_run(old))


def test_missing_database_is_not_created(tmp_path):
    config = make_tracking_config(f"sqlite:///{tmp_path}/none.db", "experiment")

    assert delete_from_mlflow(config, ["uid"], []) == (0, 0, 0)
    assert not (tmp_path / "none.db").exists()
