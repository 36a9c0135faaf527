"""Deletion of a study with its finals."""

from __future__ import annotations

import optuna
import pytest
import sqlalchemy as sa
from finished import make_study, open_finals
from tracked_trials import final_task

from mnist_search.errors import NotFound, TryAgain, UsageError
from mnist_search.search.study import SearchStudy
from mnist_search.storage import leases, tables
from mnist_search.storage.deletion import delete_studies, with_finals
from mnist_search.storage.finals import FinalsStudy
from mnist_search.storage.names import search_study_names


def counts(store):
    """Number of rows of every table of mnist-search and of Optuna."""
    names = [*tables.metadata.tables, "trials", "studies", "trial_params", "trial_user_attributes"]
    with store.engine.connect() as connection:
        statements = {name: sa.text(f"SELECT count(*) FROM {name}") for name in names}
        return {name: connection.execute(count).scalar_one() for name, count in statements.items()}


def delete(store, name):
    delete_studies(store, with_finals(store, name))


def test_nothing_of_a_deleted_study_is_left(store, study_config):
    before = counts(store)
    make_study(store, study_config)

    delete(store, "s")

    assert counts(store) == before


def test_other_studies_and_their_finals_stay(store, study_config):
    make_study(store, study_config, "other")
    FinalsStudy.open_or_create(store, "baselines.finals").add([final_task("seed-001")])
    before = counts(store)
    make_study(store, study_config)

    delete(store, "s")

    assert counts(store) == before
    assert search_study_names(store.url) == ["other"]


def test_finals_are_deleted_by_their_own_name_without_their_search(store, study_config):
    study = make_study(store, study_config)

    delete(store, "s.finals")

    assert optuna.get_all_study_names(store.storage) == ["s"]
    assert len(study.record().trials) == 2


def test_finals_of_an_earlier_study_of_this_name_stay(store, study_config):
    SearchStudy.open_or_create(store, "s", study_config, 5)
    FinalsStudy.open_or_create(store, "s.finals", "another uid")

    assert [study.study_name for study in with_finals(store, "s")] == ["s"]


@pytest.mark.parametrize("trained", ["trial", "final trial"])
def test_study_with_a_trial_in_training_is_not_deleted(store, study_config, trained):
    study = make_study(store, study_config)
    queue = study if trained == "trial" else open_finals(store, study.record()).queue
    claim = queue.claim()
    before = counts(store)

    with pytest.raises(TryAgain, match=f"a worker trains trial {claim.trial.number} of s"):
        delete(store, "s")

    assert counts(store) == before


def test_trial_of_a_worker_that_has_ended_does_not_prevent_the_deletion(store, study_config):
    make_study(store, study_config).claim()
    old = sa.update(tables.leases).values(beat=store.now() - leases.LEASE_TIMEOUT - 1)
    with store.engine.begin() as connection:
        connection.execute(old)

    delete(store, "s")

    assert optuna.get_all_study_names(store.storage) == []
    assert counts(store)["mnist_search_leases"] == 0


def test_study_of_plain_optuna_is_not_deleted(store):
    optuna.create_study(study_name="mine", storage=store.storage)

    with pytest.raises(
        UsageError, match="not a study of mnist-search; use a command of Optuna, such as optuna delete-study"
    ):
        with_finals(store, "mine")
    with pytest.raises(NotFound, match="no study 'none'"):
        with_finals(store, "none")
