"""The store: made whole, never by accident, and refused where it is something else."""

from __future__ import annotations

import multiprocessing
import sqlite3

import optuna
import pytest
import sqlalchemy as sa
from support import (
    digest,
    empty_file,
    folder,
    mlflow_database,
    newer_schema,
    older_schema,
    other_database,
    text_file,
    truncated_database,
)

from mnist_search.errors import DiskError, NotFound, UnusableConfiguration
from mnist_search.storage.database import Store, _parse, masked


def test_a_fresh_store_holds_optunas_tables_and_ours(store, tmp_path):
    tables = set(sa.inspect(store.engine).get_table_names())

    assert {"studies", "trials", "alembic_version"} <= tables
    assert {"mnist_search_leases", "mnist_search_weights", "mnist_search_mirrored"} <= tables
    assert not list(tmp_path.glob("*.new"))


def test_plain_optuna_opens_our_store(store, tmp_path):
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/store.db", study_name="plain")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)

    assert Store.open(store.url).storage.get_all_studies()[0].study_name == "plain"


def test_a_store_that_plain_optuna_made_is_taken(tmp_path):
    url = f"sqlite:///{tmp_path}/optuna.db"
    optuna.create_study(storage=url, study_name="theirs")

    store = Store.open_or_create(url)

    assert optuna.get_all_study_names(store.storage) == ["theirs"]
    assert sa.inspect(store.engine).has_table("mnist_search_leases")


@pytest.mark.parametrize("opener", [Store.open, Store.open_or_create])
@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (text_file, "no SQLite database"),
        (empty_file, "no SQLite database"),
        (folder, "no SQLite database"),
        (mlflow_database, "an MLflow database"),
        (other_database, "no study store"),
        (newer_schema, "a newer Optuna wrote it"),
        (older_schema, "optuna storage upgrade"),
        (truncated_database, "malformed|no study store"),
    ],
)
def test_what_is_no_store_of_ours_is_refused_and_left_as_it_is(tmp_path, opener, make, complaint):
    make(tmp_path / "store.db")
    before = digest(tmp_path)

    with pytest.raises(UnusableConfiguration, match=complaint):
        opener(f"sqlite:///{tmp_path}/store.db")
    assert digest(tmp_path) == before


def test_opening_a_store_that_is_not_there_makes_none(tmp_path):
    with pytest.raises(NotFound, match="begin one with mnist-search run"):
        Store.open(f"sqlite:///{tmp_path}/none.db")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_does_not_exist_is_a_disk_error(tmp_path):
    with pytest.raises(DiskError, match="cannot create the study store"):
        Store.open_or_create(f"sqlite:///{tmp_path}/missing/store.db")


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("shopping list", "takes a database URL"),
        ("mysql://host/db", "neither sqlite nor postgresql"),
        ("sqlite://", "lost with the process"),
        ("sqlite:///:memory:", "lost with the process"),
    ],
)
def test_what_is_no_usable_url_is_refused(url, complaint):
    with pytest.raises(UnusableConfiguration, match=complaint):
        Store.open_or_create(url)


def test_a_password_of_any_characters_reaches_the_driver_and_no_message():
    url = sa.URL.create("postgresql", username="u", password="p{a}%40/:#", host="h", database="d")

    parsed = _parse(url.render_as_string(hide_password=False))

    assert parsed.password == "p{a}%40/:#"
    assert parsed.drivername == "postgresql+psycopg"
    assert "p{a}" not in masked(parsed)
    assert "***" in masked(parsed)


def _open_and_close(url: str) -> None:
    store = Store.open_or_create(url)
    optuna.create_study(storage=store.storage, study_name="one", load_if_exists=True)


def test_four_processes_that_begin_at_once_make_one_whole_store(tmp_path):
    url = f"sqlite:///{tmp_path}/race.db"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_open_and_close, args=(url,)) for _ in range(4)]

    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    assert optuna.get_all_study_names(Store.open(url).storage) == ["one"]
    assert sqlite3.connect(tmp_path / "race.db").execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_the_database_clock_is_the_time_now(store):
    import time

    with store.engine.connect() as connection:
        assert abs(connection.execute(sa.select(store.now())).scalar() - time.time()) < 3


def test_reading_needs_no_right_to_write(store, tmp_path):
    (tmp_path / "store.db").chmod(0o400)
    before = digest(tmp_path)

    assert optuna.get_all_study_names(Store.open(store.url).storage) == []
    assert digest(tmp_path) == before
