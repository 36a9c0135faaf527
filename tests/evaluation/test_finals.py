"""Finalists, reproductions, and which finals may run."""

from __future__ import annotations

from dataclasses import replace

import optuna
import pytest
from finished import complete_trial, finish_final, finish_finals, open_finals

from experiments import BASELINES
from experiments.defaults import TRAINING
from mnist_search.errors import NotFound, StudyConflict, UsageError
from mnist_search.evaluation.finals import finalists, finals_of, reproductions, select_round
from mnist_search.search.study import SearchStudy, quiet_optuna

ALREADY_EVALUATED = "were already evaluated on the test set; repeating it would select on test data"


@pytest.fixture
def record(store, study_config):
    """A study of trials 0 to 3: 2 is the best, 0 and 1 have equal accuracy."""
    search_study = SearchStudy.open_or_create(store, "study", study_config, 4)
    for accuracy, loss in ((0.98, 0.2), (0.98, 0.1), (0.99, 0.3), (0.97, 0.05)):
        complete_trial(search_study, accuracy, loss=loss)
    return search_study.record()


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


def selected(store, record, tasks, *, again=False):
    return select_round(finals_of(store, record), record.name, tasks, again=again)


def test_unfinished_finals_continue_and_other_finalists_are_refused(store, record):
    finish_finals(store, record, [0.99], top=2, seeds=2)

    assert {task.round for task in selected(store, record, finalists(record, top=2, seeds=2))} == {1}
    with pytest.raises(StudyConflict, match="are unfinished"):
        selected(store, record, finalists(record, top=3, seeds=2))


def test_finished_finals_are_repeated_only_with_again(store, record):
    finish_finals(store, record, [0.99] * 4, top=2, seeds=2)
    tasks = finalists(record, top=2, seeds=2)

    with pytest.raises(UsageError, match=ALREADY_EVALUATED):
        selected(store, record, finalists(record, top=1, seeds=9))
    assert {task.round for task in selected(store, record, tasks)} == {1}  # nothing is left to train
    assert {task.round for task in selected(store, record, finalists(record, top=3, seeds=2))} == {2}
    second = selected(store, record, tasks, again=True)
    assert {task.round for task in second} == {2}

    open_finals(store, record).add(second)

    for again in (True, False):
        assert selected(store, record, tasks, again=again) == second
    assert len(open_finals(store, record).record().current) == 8


def test_waiting_finals_of_an_abandoned_round_are_not_trained(store, record):
    finals = finish_finals(store, record, [0.99], top=1, seeds=3)
    finals.queue.release(finals.claim())

    finals.add(selected(store, record, finalists(record, top=1, seeds=2), again=True))

    claims = [finals.claim() for _ in range(3)]
    assert [claim and claim.trial.user_attrs["task"]["round"] for claim in claims] == [2, 2, None]
    assert (len(finals.record().done), finals.record().n_trials) == (1, 3)


def test_failed_finals_are_added_again_and_diverged_ones_are_not(store, record):
    finals = finish_finals(store, record, [0.99], top=2, seeds=2)
    finish_final(finals, None, reason="diverged: loss nan")
    finish_final(finals, None, reason="error: RuntimeError: no kernel")
    finish_final(finals, 0.98)

    tasks = selected(store, record, finalists(record, top=2, seeds=2))
    finals.add(tasks)
    finals.add(tasks)

    assert {task.round for task in tasks} == {1}
    trials = finals.record().current
    assert [trial.state for trial in trials] == ["COMPLETE", "FAIL", "WAITING", "COMPLETE"]
    assert [trial.number for trial in trials] == [0, 1, 4, 3]


def test_a_task_with_another_training_is_refused(store, record):
    finals = finish_finals(store, record, [0.99], top=1, seeds=1)
    (task,) = finalists(record, top=1, seeds=1)

    with pytest.raises(StudyConflict, match="another training configuration"):
        finals.add([replace(task, training=TRAINING)])


def test_baseline_is_reproduced_with_its_author_s_recipe_and_the_default_training():
    author, retrained = reproductions(["seed-003"], seeds=1)

    baseline = BASELINES["seed-003"]
    assert (author.name, retrained.name) == ("seed-003", "seed-003, our training")
    assert (author.architecture, author.training) == (baseline.architecture, baseline.training)
    assert (author.evaluate, retrained.evaluate) == ("every epoch", "once")
    assert (retrained.architecture, retrained.training) == (author.architecture, TRAINING)
    with pytest.raises(NotFound, match="no baseline 'seed-9'"):
        reproductions(["seed-9"], 1)


def test_finals_create_a_study_without_a_line_of_optuna(store, record, capfd):
    before = optuna.logging.get_verbosity()

    with quiet_optuna():
        open_finals(store, record)

    assert capfd.readouterr().err == ""
    assert optuna.logging.get_verbosity() == before
