"""The live view of a study that another command trains."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from optuna.trial import TrialState
from rich.console import Console

from mnist_search.execution.watch import watch
from mnist_search.records import EpochMetrics
from mnist_search.search.study import SearchStudy


@pytest.fixture
def search_study(store, study_config):
    return SearchStudy.open_or_create(store, "s", study_config, 2)


def report(search_study, claim, epoch):
    metrics = EpochMetrics(
        epoch=epoch, val_accuracy=0.9, val_loss=0.1, seconds=30.0, samples_per_second=1234.0
    )
    search_study.queue.report(claim, metrics)


def finish(search_study, claim):
    search_study.queue.finish(claim, TrialState.COMPLETE, [0.9])


def watch_while(search_study, steps, *, active, terminal):
    """What is shown of a study of which another process makes a step before every read."""
    output, remaining = io.StringIO(), iter(steps)
    console = Console(file=output, width=80, force_terminal=terminal, legacy_windows=False)

    def read():
        next(remaining)()
        return search_study.record(), active

    record = watch(read, console, "mnist-search resume s", read_seconds=0.0)

    return output.getvalue(), record, list(remaining)


@pytest.mark.parametrize("terminal", [True, False])
def test_watch_shows_running_trials_until_the_study_is_done(search_study, terminal):
    first, second = search_study.claim(), search_study.claim()
    first.trial.set_user_attr("num_params", 1234)
    steps = [
        lambda: report(search_study, first, 1),
        lambda: finish(search_study, first),
        lambda: finish(search_study, second),
        lambda: pytest.fail("the study is done"),
    ]

    shown, record, left = watch_while(
        search_study, steps, active={first.trial_id, second.trial_id}, terminal=terminal
    )

    assert [len(left), len(record.done)] == [1, 2]
    assert "1 of 4 epochs" in shown
    assert "1 of 2 trials done" in shown
    assert "about 1 min left" in shown or "about 2 min left" in shown
    if terminal:
        assert "1,234" in shown
        assert "1/2" in shown


def test_watch_says_that_no_worker_trains_the_study(search_study):
    stale, other = search_study.claim(), search_study.claim()
    steps = [lambda: None, lambda: (finish(search_study, stale), finish(search_study, other))]

    shown, _, _ = watch_while(search_study, steps, active=set(), terminal=False)

    assert "no worker trains a trial; continue with: mnist-search resume s" in shown


def test_done_study_ends_the_watch_after_one_read(search_study):
    for _ in range(2):
        finish(search_study, search_study.claim())

    shown, _, left = watch_while(search_study, [lambda: None, lambda: None], active=set(), terminal=False)

    assert shown.count("2 of 2 trials done") == 1
    assert ", done" in shown
    assert len(left) == 1


def test_live_view_of_a_screened_study_shows_the_rungs(store, study_config):
    space = replace(study_config.space, epochs=15)
    config = replace(study_config, space=space, pruner="screening")
    study = SearchStudy.open_or_create(store, "screened", config, 2)
    first, second = study.claim(), study.claim()
    for epoch in (1, 2, 3):
        report(study, first, epoch)
    steps = [lambda: None, lambda: (finish(study, first), finish(study, second))]

    shown, _, _ = watch_while(study, steps, active={first.trial_id, second.trial_id}, terminal=True)

    assert "rung" in shown
    assert "2/3" in shown
    assert "1/3" in shown
