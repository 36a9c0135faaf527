"""Store: created completely or not at all, checked when opened, locked for a limited time."""

from __future__ import annotations

import logging
import multiprocessing
import re
import sqlite3
import time
from contextlib import closing

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

from mnist_search.errors import DiskError, NotFound, TryAgain, UnusableConfiguration
from mnist_search.sqlite import BUSY_SECONDS
from mnist_search.storage.database import Store, failure, is_unavailable, retry
from mnist_search.storage.urls import parse_url, sqlite_path


def test_new_store_has_the_tables_of_optuna_and_mnist_search(store, tmp_path):
    tables = set(sa.inspect(store.engine).get_table_names())

    assert {"studies", "trials", "alembic_version"} <= tables
    assert {"mnist_search_leases", "mnist_search_weights", "mnist_search_mirrored"} <= tables
    assert "mnist_search_epochs" in tables
    assert not list(tmp_path.glob("*.new"))


def test_plain_optuna_writes_to_a_store(store, tmp_path):
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/store.db", study_name="plain")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)

    assert Store.open(store.url).storage.get_all_studies()[0].study_name == "plain"


def test_store_of_plain_optuna_is_extended(tmp_path):
    url = f"sqlite:///{tmp_path}/optuna.db"
    optuna.create_study(storage=url, study_name="theirs")

    store = Store.open_or_create(url)

    assert optuna.get_all_study_names(store.storage) == ["theirs"]
    assert sa.inspect(store.engine).has_table("mnist_search_leases")


@pytest.mark.parametrize("opener", [Store.open, Store.open_or_create])
@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (text_file, "not a SQLite database"),
        (empty_file, "not a SQLite database"),
        (folder, "not a SQLite database"),
        (mlflow_database, "an MLflow database"),
        (other_database, "not a study store"),
        (newer_schema, "a newer Optuna wrote it"),
        (older_schema, "optuna storage upgrade"),
        (truncated_database, "malformed|not a study store"),
    ],
)
def test_open_raises_and_changes_nothing_when_the_file_is_not_a_store(tmp_path, opener, make, complaint):
    make(tmp_path / "store.db")
    before = digest(tmp_path)

    with pytest.raises(UnusableConfiguration, match=complaint):
        opener(f"sqlite:///{tmp_path}/store.db")
    assert digest(tmp_path) == before


def test_open_raises_and_creates_nothing_when_there_is_no_store(tmp_path):
    with pytest.raises(NotFound, match="create one with mnist-search run"):
        Store.open(f"sqlite:///{tmp_path}/none.db")
    assert not list(tmp_path.iterdir())


def test_create_raises_disk_error_when_the_folder_is_missing(tmp_path):
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
def test_create_raises_when_the_url_is_not_usable(url, complaint):
    with pytest.raises(UnusableConfiguration, match=complaint):
        Store.open_or_create(url)


def test_password_with_special_characters_reaches_the_driver_and_no_message():
    url = sa.URL.create("postgresql", username="u", password="p{a}%40/:#", host="h", database="d")

    parsed = parse_url(url.render_as_string(hide_password=False))

    assert parsed.password == "p{a}%40/:#"
    assert parsed.drivername == "postgresql+psycopg"
    assert "p{a}" not in str(parsed)
    assert "***" in str(parsed)


def _open_and_close(url: str) -> None:
    store = Store.open_or_create(url)
    optuna.create_study(storage=store.storage, study_name="one", load_if_exists=True)


@pytest.mark.slow
def test_four_concurrent_processes_create_one_complete_store(tmp_path):
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


def test_database_clock_is_the_current_time(store):
    with store.engine.connect() as connection:
        assert abs(connection.execute(sa.select(store.now())).scalar() - time.time()) < 3


def test_read_only_file_is_readable_and_unchanged(store, tmp_path):
    (tmp_path / "store.db").chmod(0o400)
    before = digest(tmp_path)

    assert optuna.get_all_study_names(Store.open(store.url).storage) == []
    assert digest(tmp_path) == before


def test_lock_raises_try_again_when_another_process_holds_it(store):
    impatient = Store.open(store.url, write=True, busy_seconds=0.1)

    with store.lock("claim"), pytest.raises(TryAgain, match=r"claim lock for more than 0\.1 s"):
        impatient.lock("claim").__enter__()
    with impatient.lock("claim"):
        pass


def test_store_waits_longer_than_optuna_for_a_locked_database(store):
    for each in (store, Store.open(store.url)):
        with each.engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 1000 * BUSY_SECONDS


def test_transaction_fails_when_the_database_stays_locked(store):
    impatient = Store.open(store.url, write=True, busy_seconds=0.1)

    with store.engine.begin(), pytest.raises(sa.exc.OperationalError, match="locked"):
        impatient.engine.connect().begin()


@pytest.fixture
def impatient(store):
    """The store, opened by a process that waits 0.1 s for a lock."""
    return Store.open(store.url, write=True, busy_seconds=0.1)


@pytest.fixture
def other_program(impatient):
    """A connection that holds the store's write lock."""
    path = sqlite_path(impatient.url)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection


def create_study(store, name="s"):
    return optuna.create_study(storage=store.storage, study_name=name)


def error_of(action):
    with pytest.raises((sa.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError)) as error:
        action()
    return error.value


def fill_disk(store):
    """Allow the database of a store no further page."""
    store.engine.dispose()

    @sa.event.listens_for(store.engine, "connect")
    def _set_limit(connection, _):
        connection.execute("PRAGMA max_page_count = 1")


def write_a_megabyte(store):
    with store.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE large (x)")
        connection.exec_driver_sql("INSERT INTO large VALUES (zeroblob(1000000))")


def test_retry_waits_for_a_locked_store_with_one_warning(impatient, other_program, caplog):
    n_calls = 0

    def action():
        nonlocal n_calls
        n_calls += 1
        if n_calls == 3:
            other_program.execute("ROLLBACK")
        return create_study(impatient).study_name

    with caplog.at_level(logging.WARNING, logger="mnist_search"):
        assert retry(action) == "s"
    assert n_calls == 3
    assert caplog.messages == ["waiting for the store: database is locked"]


def test_retry_raises_an_error_of_another_kind_immediately(store):
    n_calls = 0

    def action():
        nonlocal n_calls
        n_calls += 1
        with store.engine.begin() as connection:
            connection.exec_driver_sql("SELECT * FROM missing")

    assert "no such table" in str(error_of(lambda: retry(action)))
    assert n_calls == 1


@pytest.mark.usefixtures("other_program")
def test_locked_store_is_unavailable_and_fails_with_try_again(impatient):
    for action in (impatient.engine.connect().begin, lambda: create_study(impatient)):
        error = error_of(action)
        failed = failure(error, impatient.url)

        assert is_unavailable(error)
        assert isinstance(failed, TryAgain)
        assert "store.db is locked or disconnected (database is locked)" in str(failed)


def test_full_disk_is_not_unavailable_and_fails_with_the_file_and_the_free_space(store, tmp_path):
    fill_disk(store)

    error = error_of(lambda: write_a_megabyte(store))
    failed = failure(error, store.url)

    assert not is_unavailable(error)
    assert isinstance(failed, DiskError)
    assert str(tmp_path / "store.db") in str(failed)
    assert re.search(r"\(database or disk is full; [\d,]+ MiB free\)", str(failed))


def test_error_of_a_file_fails_with_its_path(store, tmp_path):
    with pytest.raises(OSError, match="No such file") as error:
        (tmp_path / "missing").read_bytes()

    failed = failure(error.value, store.url)

    assert isinstance(failed, DiskError)
    assert f"cannot access {tmp_path}/missing" in str(failed)


def test_failure_shows_no_password(impatient, other_program):
    assert other_program.in_transaction
    error = error_of(lambda: create_study(impatient))

    assert "secret" not in str(failure(error, "postgresql://user:secret@host/database"))


def test_transaction_of_a_lost_connection_is_unavailable_and_retried(store):
    with store.engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
        connection.invalidate()  # as a restart of the server does

        with pytest.raises(sa.exc.PendingRollbackError) as lost:
            connection.execute(sa.text("SELECT 1"))

    assert is_unavailable(lost.value)
    assert not is_unavailable(sa.exc.PendingRollbackError("of an earlier error"))
