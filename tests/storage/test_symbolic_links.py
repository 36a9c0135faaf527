"""A store with several names is one store: its links are resolved before it is opened or locked."""

from __future__ import annotations

import multiprocessing
import os
import shutil

import optuna
import pytest

from mnist_search.errors import MnistSearchError, TryAgain, UnusableConfiguration
from mnist_search.storage.database import Store
from mnist_search.storage.urls import sqlite_path
from mnist_search.tracking.config import local_file


@pytest.fixture
def links(tmp_path):
    """Names of the file ``big/store.db``: its own, a link to it, one through a linked folder, and a chain."""
    for name in ("big", "a"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "link.db").symlink_to("../big/store.db")
    (tmp_path / "folder").symlink_to("big")
    (tmp_path / "chain.db").symlink_to("a/link.db")
    return [tmp_path / name for name in ("big/store.db", "a/link.db", "folder/store.db", "chain.db")]


def test_every_name_has_the_path_of_the_file(links, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    assert {sqlite_path(f"sqlite:///{link}") for link in links} == {links[0]}
    assert sqlite_path("sqlite:///folder/../a/link.db") == links[0]
    assert {local_file(f"sqlite:///{link}") for link in links} == {links[0]}


@pytest.mark.parametrize("number", [1, 2, 3])
def test_store_is_created_at_the_target_of_a_link(links, number):
    Store.open_or_create(f"sqlite:///{links[number]}").close()

    assert links[0].is_file()
    assert not links[0].is_symlink()
    assert links[1].is_symlink()
    assert optuna.get_all_study_names(f"sqlite:///{links[0]}") == []


def test_names_of_one_store_share_its_locks(links, empty_store):
    shutil.copy(empty_store, links[0])
    stores = [Store.open(f"sqlite:///{link}", write=True, busy_seconds=0.1) for link in links]

    with stores[0].lock("claim"):
        for other in stores[1:]:
            with pytest.raises(TryAgain, match="claim lock"):
                other.lock("claim").__enter__()
    assert [path.name for path in links[0].parent.glob(".*.lock")] == [".store.db.claim.lock"]


def _add_studies(url: str) -> None:
    store = Store.open_or_create(url)
    for number in range(5):
        with store.lock("claim"):
            optuna.create_study(storage=store.storage, study_name=f"{os.getpid()}-{number}")


def test_processes_with_several_names_of_a_new_store_create_one(links):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_add_studies, args=(f"sqlite:///{link}",)) for link in links]

    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    assert len(optuna.get_all_study_names(f"sqlite:///{links[0]}")) == 20


def test_store_and_runs_in_one_file_under_two_names_are_refused(links, command):
    done = command(
        *("run", "--budget", "1500", "--storage", f"sqlite:///{links[0]}"),
        *("--tracking-uri", f"sqlite:///{links[1]}"),
    )

    assert (done.code, done.err.count("\n")) == (78, 1)
    assert "cannot share a database" in done.err
    assert not links[0].exists()


def test_link_to_itself_is_an_error_of_one_line(tmp_path):
    (tmp_path / "loop.db").symlink_to("loop.db")

    with pytest.raises(MnistSearchError, match=r"loop\.db"):
        Store.open_or_create(f"sqlite:///{tmp_path}/loop.db")


def test_link_to_a_foreign_file_is_refused_and_unchanged(tmp_path):
    (tmp_path / "notes").write_text("shopping list")
    (tmp_path / "store.db").symlink_to("notes")

    with pytest.raises(UnusableConfiguration, match="not a SQLite database"):
        Store.open_or_create(f"sqlite:///{tmp_path}/store.db")
    assert (tmp_path / "notes").read_text() == "shopping list"
