"""Copies of studies in other stores, and backups of a store."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from dataclasses import asdict, replace

import optuna
import pytest
import sqlalchemy as sa
from finished import complete_trial, make_study, open_finals
from optuna.trial import create_trial
from tracked_trials import epoch_metrics

from mnist_search.errors import DiskError, StudyConflict, TryAgain, UsageError
from mnist_search.evaluation.finals import finals_of
from mnist_search.search.study import SearchStudy
from mnist_search.storage import studies, tables, weights
from mnist_search.storage.backup import back_up
from mnist_search.storage.copying import copy_studies
from mnist_search.storage.database import Store
from mnist_search.storage.deletion import with_finals

logger = logging.getLogger(__name__)


@pytest.fixture
def target(tmp_path, empty_store):
    shutil.copy(empty_store, tmp_path / "target.db")
    return Store.open_or_create(f"sqlite:///{tmp_path}/target.db")


def copy_study(source, target, name="s"):
    return [study.study_name for study in copy_studies(source, target, with_finals(source, name))]


def contents(store, name="s"):
    """Everything of a study but the ids that the database gives."""
    study = studies.load(store, name)
    trials = study.get_trials()
    numbers = {trial._trial_id: trial.number for trial in trials}
    for trial in trials:
        trial._trial_id = 0
    uid, rows = study.user_attrs["uid"], []
    with store.engine.connect() as connection:
        for table in (tables.epochs, tables.weights, tables.tracked_runs):
            of_study = sa.select(table).where(table.c.study_uid == uid)
            found = connection.execute(of_study).mappings()
            rows += [(table.name, {**row, "trial_id": numbers[row["trial_id"]]}) for row in found]
    system_attrs = store.storage.get_study_system_attrs(study._study_id)
    return study.directions, study.user_attrs, system_attrs, trials, sorted(rows, key=str)


def n_rows(store):
    with store.engine.connect() as connection:
        tables = sa.inspect(store.engine).get_table_names()
        return {name: connection.execute(sa.text(f"SELECT count(*) FROM {name}")).scalar() for name in tables}


def test_copy_has_all_of_a_study_and_its_finals(store, target, study_config):
    make_study(store, study_config, "other")
    SearchStudy.open_or_create(target, "first", study_config, 3).claim()  # so that ids differ
    make_study(store, study_config)
    before = contents(store), contents(store, "s.finals")

    assert copy_study(store, target) == ["s.finals", "s"]

    assert (contents(target), contents(target, "s.finals")) == before
    assert (contents(store), contents(store, "s.finals")) == before
    record = SearchStudy.open(target, "s").record()
    assert [trial.state for trial in record.trials] == ["COMPLETE", "WAITING"]
    assert weights.of_trial(target, record.best.trial_id, "trial 0") == b"weights"
    assert (record.best.run_id, record.best.model_id) == ("run", "model")
    assert len(finals_of(target, record).done) == 1
    assert optuna.get_all_study_names(target.storage) == ["first", "s.finals", "s"]


def test_copied_study_continues(store, target, study_config):
    make_study(store, study_config)
    copy_study(store, target)

    study = SearchStudy.open(target, "s")
    complete_trial(study, 0.95)

    assert [trial.state for trial in study.record().trials] == ["COMPLETE", "COMPLETE"]
    assert study.record().best.number == 1


def test_second_copy_changes_nothing(store, target, study_config):
    make_study(store, study_config)
    copy_study(store, target)
    before = n_rows(target)

    assert copy_study(store, target) == []
    assert n_rows(target) == before


def test_finals_that_were_trained_later_are_copied_alone(store, target, study_config):
    study = SearchStudy.open_or_create(store, "s", study_config, 5)
    complete_trial(study, 0.9)
    copy_study(store, target)
    open_finals(store, study.record())

    assert copy_study(store, target) == ["s.finals"]


def test_other_study_of_the_name_is_not_overwritten(store, target, study_config):
    make_study(store, study_config)
    make_study(target, study_config)
    before = n_rows(target)

    with pytest.raises(StudyConflict, match=r"has another study .*; delete it there"):
        copy_study(store, target)

    assert n_rows(target) == before


def test_copy_that_was_continued_is_not_overwritten(store, target, study_config):
    make_study(store, study_config)
    copy_study(store, target)
    complete_trial(SearchStudy.open(target, "s"), 0.95)

    with pytest.raises(StudyConflict, match="has other trials of study 's'; delete it in one of the stores"):
        copy_study(store, target)


def test_study_in_training_is_not_copied(store, target, study_config):
    make_study(store, study_config).claim()

    with pytest.raises(TryAgain, match="a worker trains trial 1 of s"):
        copy_study(store, target)

    assert optuna.get_all_study_names(target.storage) == []


def test_a_store_is_not_copied_to_itself(store, study_config, tmp_path):
    make_study(store, study_config)
    (tmp_path / "link.db").symlink_to("store.db")

    with pytest.raises(UsageError, match="name another store with --to URL"):
        copy_study(store, Store.open(f"sqlite:///{tmp_path}/link.db", write=True))


def test_interrupted_copy_leaves_nothing(store, target, study_config):
    make_study(store, study_config)
    before = n_rows(target)
    refuse = (
        "CREATE TRIGGER refuse BEFORE INSERT ON mnist_search_mirrored BEGIN SELECT RAISE(ABORT, 'x'); END"
    )
    with target.engine.begin() as connection:
        connection.exec_driver_sql(refuse)

    with pytest.raises(sa.exc.IntegrityError):
        copy_study(store, target)

    assert n_rows(target) == before
    with target.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER refuse")
    assert copy_study(store, target) == ["s.finals", "s"]


def test_rows_that_a_study_deleted_with_optuna_left_are_replaced(store, target, study_config):
    make_study(target, study_config, "old")
    for name in ("old", "old.finals"):
        optuna.delete_study(study_name=name, storage=target.storage)  # leaves rows of mnist-search
    make_study(store, study_config)

    copy_study(store, target)

    assert contents(target) == contents(store)


def test_two_copies_at_once_are_one(store, target, study_config):
    make_study(store, study_config)
    copied = []

    def copy_with_own_connections():
        source, target_ = (Store.open(each.url, write=True) for each in (store, target))
        copied.append(copy_study(source, target_))

    threads = [threading.Thread(target=copy_with_own_connections) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(copied) == [[], ["s.finals", "s"]]
    assert contents(target) == contents(store)


def test_verb_copies_and_names_the_next_command(command, store, study_config, tmp_path):
    make_study(store, study_config)
    store.close()

    done = command("copy", "s", "--to", "sqlite:///new.db", "--storage", "sqlite:///store.db")
    missing = command("copy", "none", "--to", "sqlite:///none.db", "--storage", "sqlite:///store.db")

    assert (done.code, done.out) == (0, "copied s.finals (2 trials)\ncopied s (2 trials)\n"), done.err
    assert "mnist-search resume s --storage sqlite:///new.db" in done.err
    assert missing.code == 66
    assert not (tmp_path / "none.db").exists()


def test_backup_of_a_store_in_use_is_a_store(store, study_config, tmp_path):
    make_study(store, study_config)
    file = tmp_path / "backup.db"
    with store.engine.begin():  # another process writes
        back_up(store, file)

    backup = Store.open(f"sqlite:///{file}", write=True)

    assert contents(backup) == contents(store)
    with pytest.raises(UsageError, match=r"backup\.db exists; name a new file"):
        back_up(store, file)
    with pytest.raises(DiskError, match=r"cannot write .*; name another file"):
        back_up(store, tmp_path / "no folder" / "backup.db")
    assert not list(tmp_path.glob(".mnist-search-*"))


@pytest.fixture
def postgres(postgres_url):
    store = Store.open_or_create(postgres_url)
    yield store
    store.close()


def add_trials(study, store, number):
    """Add complete trials of 15 epochs with all params."""
    space = study.config.space.distributions
    params = complete_trial(study, 0.9).trial.params
    metrics = [replace(epoch_metrics(epoch), learning_rate=1 / 3) for epoch in range(1, 16)]
    for n in range(number):
        trial = create_trial(
            value=n / 7,
            params=params,
            distributions={name: space[name] for name in params},
            user_attrs={"num_params": 1000, "device": "cpu", "attempt": f"owner-{n}"},
            intermediate_values={epoch.epoch: epoch.val_accuracy for epoch in metrics},
        )
        study.study.add_trial(trial)
    added = study.study.get_trials(deepcopy=False)[-number:]
    key = {"study_uid": study.study.user_attrs["uid"]}
    rows = [
        key | {"trial_id": trial._trial_id, "attempt": trial.user_attrs["attempt"], **asdict(epoch)}
        for trial in added
        for epoch in metrics
    ]
    with store.engine.begin() as connection:
        connection.execute(sa.insert(tables.epochs), rows)


@pytest.mark.slow
def test_thousand_trials_are_the_same_after_a_way_through_postgres(store, target, study_config, postgres):
    make_study(store, study_config)
    add_trials(SearchStudy.open(store, "s"), store, 1000)

    started = time.monotonic()
    copy_study(store, postgres)
    there = time.monotonic()
    copy_study(postgres, target)
    logger.info("SQLite to PostgreSQL in %.1f s, back in %.1f s", there - started, time.monotonic() - there)

    assert contents(target) == contents(store)
    assert contents(target, "s.finals") == contents(store, "s.finals")
    assert len(SearchStudy.open(postgres, "s").record().trials) == 1002
