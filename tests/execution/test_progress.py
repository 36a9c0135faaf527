"""Progress lines and the estimate of the time left."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import sys
import time
from contextlib import closing

import pytest
from optuna.trial import TrialState

from experiments import BASELINES
from mnist_search.execution.events import Message, ProcessEvent, Stop, TrialEnded, TrialEpoch, TrialStarted
from mnist_search.execution.progress import (
    LINE_SECONDS,
    MessageReporter,
    PlainReporter,
    RichReporter,
    make_reporter,
)
from mnist_search.records import EpochMetrics, FinalTask
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


def train(search_study, epochs, *, finish=None, seconds=60.0):
    """Claim a trial and report some epochs of it; complete or pruned if ``finish`` says so."""
    claim = search_study.claim()
    for epoch in range(1, epochs + 1):
        metrics = EpochMetrics(epoch=epoch, val_accuracy=0.9, val_loss=0.1, seconds=seconds)
        search_study.queue.report(claim, metrics)
    if finish is not None:
        search_study.queue.finish(claim, finish, [0.9] if finish == TrialState.COMPLETE else None)
    return claim


def test_time_left_is_unknown_before_the_first_epoch(search_study):
    reporter = PlainReporter(search_study.record, 1)

    assert reporter.seconds_left() is None
    assert "time left: unknown" in reporter.progress_line()


def test_time_left_includes_the_epochs_of_running_trials(search_study):
    reporter = PlainReporter(search_study.record, 1)
    claim = train(search_study, 1)
    reporter.handle(TrialStarted(claim.trial.number, 1000, 2))
    reporter.handle(TrialEpoch(claim.trial.number, 1, 0.9, 1000.0))

    line = reporter.progress_line()

    assert reporter._update().seconds_left == 7 * 60  # 4 trials of 2 epochs, one epoch is trained
    assert re.fullmatch(
        r"0 of 4 trials done, 1 running, 1 of 8 epochs, elapsed \d+ s, about \d min left", line
    )


def test_time_left_is_never_zero_while_trials_run(search_study):
    reporter = PlainReporter(search_study.record, 1)
    for _ in range(3):
        train(search_study, 2, finish=TrialState.COMPLETE, seconds=1e-3)
    claim = train(search_study, 2, seconds=1e-3)
    reporter.handle(TrialStarted(claim.trial.number, 1000, 2))
    reporter._read()
    reporter.handle(TrialEpoch(claim.trial.number, 2, 0.9, 1000.0))

    assert reporter.seconds_left() == 0.0
    assert reporter.progress_line().endswith("less than 1 min left")


def test_progress_says_that_only_mlflow_is_written(search_study):
    reporter = PlainReporter(search_study.record, 1)
    for _ in range(4):
        finish_trial(search_study)
    reporter._read()
    assert reporter.progress_line().endswith(", done")

    reporter.handle(ProcessEvent.ONLY_SYNC)

    assert reporter.progress_line().endswith(", writing to MLflow")


def test_released_trial_is_not_finished_and_its_line_says_what_is_lost(search_study, capsys):
    reporter = PlainReporter(search_study.record, 1)
    claim = train(search_study, 1)
    reporter.handle(TrialStarted(claim.trial.number, 1000, 2))
    reporter.handle(TrialEpoch(claim.trial.number, 1, 0.9, 1000.0))
    search_study.queue.release(claim)

    reporter.handle(TrialEnded(claim.trial.number, "WAITING"))

    assert "0 of 4 trials done, 0 running, 0 of 8 epochs" in reporter.progress_line()
    assert "released  1 trained epoch is lost" in capsys.readouterr().err


def test_stop_says_which_trials_are_released_and_what_that_costs(search_study, capsys):
    reporter = PlainReporter(search_study.record, 2)
    for number, epochs in ((3, 2), (7, 1)):
        reporter.handle(TrialStarted(number, 1000, 2))
        reporter.handle(TrialEpoch(number, epochs, 0.9, 1000.0))

    reporter.handle(Stop("SIGINT", signal.SIGINT))

    assert capsys.readouterr().err == (
        "SIGINT: releasing trial 3 and trial 7; 3 trained epochs are lost and trained again later\n"
    )


def test_stop_that_lets_trials_end_says_which_and_how_long_they_take(search_study, capsys):
    reporter = PlainReporter(search_study.record, 1)
    claim = train(search_study, 1)
    reporter.handle(TrialStarted(claim.trial.number, 1000, 2))
    reporter.handle(TrialEpoch(claim.trial.number, 1, 0.9, 1000.0))

    reporter.handle(Stop("SIGINT", signal.SIGINT, finish_running=True))

    line = capsys.readouterr().err
    assert "no new trial starts; waiting for the end of trial 0 (about 1 min)" in line
    assert "another signal releases them" in line
    assert reporter.progress_line().endswith(", about 1 min left")  # not that of the waiting trials


def test_stop_without_running_trials_is_a_sentence(search_study, capsys):
    PlainReporter(search_study.record, 1).handle(Stop("SIGINT", signal.SIGINT))

    assert capsys.readouterr().err == "stopped: SIGINT\n"


def test_elapsed_time_is_that_of_the_command(search_study):
    reporter = make_reporter(search_study.record, 1, "plain", started=time.monotonic() - 600)

    assert ", elapsed 10 min, " in reporter.progress_line()


def test_plain_progress_is_printed_once_a_minute(search_study, capsys):
    PlainReporter(search_study.record, 1).refresh()
    before = capsys.readouterr().err
    reporter = PlainReporter(search_study.record, 1, started=time.monotonic() - LINE_SECONDS - 1)

    reporter.refresh()
    reporter.refresh()

    assert before == ""
    assert LINE_SECONDS < 60
    assert capsys.readouterr().err.count("elapsed") == 1


def test_done_study_has_no_number_of_jobs(search_study, capsys):
    for _ in range(4):
        train(search_study, 2, finish=TrialState.COMPLETE)

    with PlainReporter(search_study.record, 0):
        pass

    assert capsys.readouterr().err == "study study: 4 of 4 trials done, nothing is left to train\n"


def test_reporter_of_messages_prints_no_progress(search_study, capsys):
    reporter = make_reporter(search_study.record, 1, "none")
    with reporter:
        reporter.handle(TrialEnded(finish_trial(search_study), "FAIL"))
        reporter.handle(Message("a message"))

    assert capsys.readouterr().err == "a message\n"


@pytest.mark.parametrize(
    ("mode", "term", "kind"),
    [
        ("auto", "xterm", RichReporter),
        ("auto", "dumb", PlainReporter),
        ("live", "dumb", RichReporter),
        ("plain", "xterm", PlainReporter),
        ("none", "xterm", MessageReporter),
    ],
)
def test_mode_chooses_the_reporter_of_a_terminal(search_study, monkeypatch, mode, term, kind):
    _, stderr = os.openpty()
    monkeypatch.setenv("TERM", term)
    with os.fdopen(stderr, "w") as file:
        monkeypatch.setattr(sys, "stderr", file)  # a real terminal; pytest's stream is none

        reporter = make_reporter(search_study.record, 1, mode)

        assert type(reporter) is kind


def test_no_color_takes_away_colors_only(search_study, monkeypatch):
    terminal, stderr = os.openpty()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    with os.fdopen(stderr, "w") as file:
        monkeypatch.setattr(sys, "stderr", file)  # a real terminal; pytest's stream is none
        with make_reporter(search_study.record, 1) as reporter:
            reporter.handle(TrialStarted(0, 1000, 2))
            reporter.refresh()
        shown = os.read(terminal, 100_000).decode()

    assert "0 of 8 epochs" in shown
    assert "trial 0" in shown
    assert not re.search(r"\x1b\[[0-9;]*(3[0-9]|4[0-9]|9[0-7])m", shown)


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
        monkeypatch.setattr(sys, "stderr", file)  # a real terminal; pytest's stream is none
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
