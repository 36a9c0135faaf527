"""Finalists, reproductions, and which finals may run."""

from __future__ import annotations

import pytest
from optuna.trial import TrialState

from experiments import BASELINES
from experiments.defaults import TRAINING
from mnist_search.errors import NotFound, StudyConflict, UsageError
from mnist_search.evaluation.finals import final_queue_for, finalists, reproductions
from mnist_search.records import FinalResult
from mnist_search.search.study import SearchStudy

ALREADY_EVALUATED = "were already evaluated on the test set; repeating it would select on test data"


@pytest.fixture
def record(store, study_config):
    """A study of trials 0 to 3: 2 is the best, 0 and 1 have equal accuracy."""
    search_study = SearchStudy.open_or_create(store, "study", study_config, 4)
    for accuracy, loss in ((0.98, 0.2), (0.98, 0.1), (0.99, 0.3), (0.97, 0.05)):
        claim = search_study.claim()
        claim.trial.set_user_attr("num_params", 1000)
        curve = [{"epoch": 1, "val_accuracy": accuracy, "val_loss": loss}]
        search_study.queue.finish(claim, TrialState.COMPLETE, accuracy, attributes={"curve": curve})
    return search_study.record()


def finish(queue):
    while claim := queue.claim():
        assert queue.finish(claim, FinalResult(test_accuracy=0.99), None)


def test_finalists_rank_by_accuracy_then_loss(record):
    tasks = finalists(record, top=3, seeds=2)

    assert [task.name for task in tasks] == ["trial 2", "trial 1", "trial 0"] * 2
    assert [task.seed for task in tasks] == [0, 0, 0, 1, 1, 1]
    best = record.config.space.decode(record.best.params)
    assert (tasks[0].architecture, tasks[0].training) == (best.architecture, best.training)
    assert all(task.evaluate == "once" for task in tasks)


def test_finalists_are_refused_when_no_trial_is_complete(store, study_config):
    with pytest.raises(NotFound, match="no complete trial"):
        finalists(SearchStudy.open_or_create(store, "empty", study_config, 1).record(), 5, 5)


def test_unfinished_finals_continue_and_other_finalists_are_refused(store, record):
    tasks = finalists(record, top=2, seeds=2)
    queue = final_queue_for(store, record, tasks, again=False)
    queue.add(tasks)
    queue.finish(queue.claim(), FinalResult(test_accuracy=0.99), None)

    assert final_queue_for(store, record, tasks, again=False).name == queue.name
    with pytest.raises(StudyConflict, match="are unfinished"):
        final_queue_for(store, record, finalists(record, top=3, seeds=2), again=False)


def test_finished_finals_are_repeated_only_with_again(store, record):
    tasks = finalists(record, top=2, seeds=2)
    first = final_queue_for(store, record, tasks, again=False)
    first.add(tasks)
    finish(first)

    for refused in (tasks, finalists(record, top=1, seeds=9)):
        with pytest.raises(UsageError, match=ALREADY_EVALUATED):
            final_queue_for(store, record, refused, again=False)
    more = finalists(record, top=3, seeds=2)
    assert final_queue_for(store, record, more, again=False).name != first.name

    second = final_queue_for(store, record, tasks, again=True)
    assert second.name != first.name
    second.add(tasks)
    assert final_queue_for(store, record, tasks, again=True).name == second.name
    assert final_queue_for(store, record, tasks, again=False).name == second.name


def test_finished_finals_without_runs_continue_when_runs_are_needed(store, record):
    tasks = finalists(record, top=2, seeds=2)
    queue = final_queue_for(store, record, tasks, again=False)
    queue.add(tasks)
    finish(queue)

    assert final_queue_for(store, record, tasks, again=False, needs_runs=True).name == queue.name
    for training in queue.trainings():
        queue.record_run(training, "run")
    with pytest.raises(UsageError, match=ALREADY_EVALUATED):
        final_queue_for(store, record, tasks, again=False, needs_runs=True)


def test_baseline_is_reproduced_with_its_author_s_recipe_and_the_default_training():
    author, retrained = reproductions(["seed-003"], seeds=1)

    baseline = BASELINES["seed-003"]
    assert (author.name, retrained.name) == ("seed-003", "seed-003, our training")
    assert (author.architecture, author.training) == (baseline.architecture, baseline.training)
    assert (author.evaluate, retrained.evaluate) == ("every epoch", "once")
    assert (retrained.architecture, retrained.training) == (author.architecture, TRAINING)
    with pytest.raises(NotFound, match="no baseline 'seed-9'"):
        reproductions(["seed-9"], 1)
