"""Progress lines and the estimate of the time left."""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from contextlib import closing

import pytest
from optuna.trial import TrialState

from experiments import BASELINES
from mnist_search.execution.events import Message, TrialEnded, TrialStarted
from mnist_search.execution.progress import PlainReporter, RichReporter, make_reporter
from mnist_search.records import FinalTask
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store
from mnist_search.storage.finals import FinalsStudy


@pytest.fixture
def search_study(store, study_config):
    return SearchStudy.open_or_create(store, "study", study_config, 4)


def finish_trial(search_study):
    claim = search_study.claim()
    search_study.queue.finish(claim, TrialState.FAIL, attributes={"reason": "test"})
    return claim.trial.number


def test_time_left_is_unknown_before_the_first_finished_trial(search_study):
    reporter = PlainReporter(search_study.record, 1)

    assert reporter.seconds_left() is None


def test_time_left_is_the_mean_time_per_trial_times_the_remaining_trials(search_study):
    before = time.monotonic()
    reporter = PlainReporter(search_study.record, 1)
    created = time.monotonic()
    for _ in range(2):
        reporter.handle(TrialEnded(finish_trial(search_study), "FAIL", reason="test"))

    shortest = time.monotonic() - created
    left = reporter.seconds_left()

    assert shortest / 2 * 2 <= left <= (time.monotonic() - before) / 2 * 2


def test_released_trial_counts_neither_as_finished_nor_for_the_estimate(search_study, capsys):
    reporter = PlainReporter(search_study.record, 1)
    claim = search_study.claim()
    search_study.queue.release(claim)

    reporter.handle(TrialEnded(claim.trial.number, "WAITING"))

    assert reporter.seconds_left() is None
    assert "released" in capsys.readouterr().err


def test_display_keeps_its_values_while_the_store_is_locked(search_study, store, tmp_path):
    shown = SearchStudy.open(Store.open(store.url, busy_seconds=0.1), "study")
    reporter = PlainReporter(shown.record, 1)
    number = finish_trial(search_study)

    with closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        reporter.handle(TrialEnded(number, "FAIL"))
        assert len(reporter._record.done) == 0

    reporter.handle(TrialEnded(number, "FAIL"))
    assert len(reporter._record.done) == 1


def test_final_trials_have_the_name_and_seed_of_their_task(store, capsys):
    finals = FinalsStudy.open_or_create(store, "study.finals")
    reporter = PlainReporter(finals.record, 1)
    recipe = BASELINES["seed-001"]
    task = FinalTask(name="trial 3", seed=7, architecture=recipe.architecture, training=recipe.training)
    finals.add([task])
    claim = finals.claim()

    reporter.handle(TrialStarted(claim.trial.number, 1000, 2))
    finals.queue.finish(claim, TrialState.COMPLETE, [0.99, 0.1], keep=None)
    reporter.handle(TrialEnded(claim.trial.number, "COMPLETE"))

    assert "trial 3, seed 7 complete" in capsys.readouterr().err


@pytest.mark.parametrize("closed", ["before the first line", "while the table is shown"])
def test_closed_terminal_does_not_end_the_search(search_study, monkeypatch, closed):
    terminal, stderr = os.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with os.fdopen(stderr, "w") as file:
        monkeypatch.setattr(sys, "stderr", file)
        reporter = make_reporter(search_study.record, 1)
        assert isinstance(reporter, RichReporter)
        if closed == "before the first line":
            os.close(terminal)
        with reporter:
            reporter.handle(TrialStarted(0, 1000, 2))
            reporter.refresh()
            if closed == "while the table is shown":
                assert b"trials done" in os.read(terminal, 4096)
                os.close(terminal)
            reporter.handle(Message("a message"))
            reporter.refresh()

        with pytest.raises(OSError, match="Input/output error"):
            os.write(stderr, b"closed")
        assert sys.stderr is file
