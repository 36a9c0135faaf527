"""Progress lines and the estimate of the time left."""

from __future__ import annotations

import time

import pytest
from optuna.trial import TrialState

from mnist_search.execution.events import TrialEnded
from mnist_search.execution.progress import PlainReporter
from mnist_search.search.study import SearchStudy


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
