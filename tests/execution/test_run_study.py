"""Start of a command: a locked store, a study whose creation was interrupted."""

from __future__ import annotations

import logging
import sqlite3
import threading

import optuna
from optuna.trial import TrialState

from mnist_search import sqlite
from mnist_search.execution.config import RunConfig
from mnist_search.execution.progress import PlainReporter
from mnist_search.execution.run_study import run_study
from mnist_search.search.study import SearchStudy
from mnist_search.storage.urls import sqlite_path


def test_store_that_is_locked_at_the_start_is_waited_for(store, study_config, monkeypatch, caplog):
    search_study = SearchStudy.open_or_create(store, "s", study_config, n_trials=1)
    search_study.queue.finish(search_study.claim(), TrialState.FAIL)
    store.close()
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)  # the message comes after it, in use after 60 s
    other = sqlite3.connect(sqlite_path(store.url), isolation_level=None, check_same_thread=False)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    threading.Timer(0.5, other.close).start()

    with caplog.at_level(logging.WARNING, logger="mnist_search"):
        result = run_study(RunConfig(storage=store.url, study="s"), PlainReporter)

    assert [trial.state for trial in result.record.trials] == ["FAIL"]
    (message,) = (text for text in caplog.messages if text.startswith("waiting for the store"))
    assert "store.db is locked" in message


def test_study_whose_creation_was_interrupted_is_created(store, study_config, mnist_dir):
    optuna.create_study(study_name="s", storage=store.storage, direction="maximize")
    config = RunConfig(
        storage=store.url,
        study="s",
        config=study_config,
        n_trials=1,
        jobs=1,
        device="cpu",
        data_dir=mnist_dir,
    )

    result = run_study(config, PlainReporter)

    assert [trial.state for trial in result.record.trials] == ["COMPLETE"]
