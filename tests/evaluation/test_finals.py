"""Finalists, reproductions, and which finals may run."""

from __future__ import annotations

from dataclasses import replace

import optuna
import pytest
from finished import complete_trial, finish_final, finish_finals, open_finals

from experiments import BASELINES
from experiments.defaults import TRAINING
from mnist_search.errors import NotFound, StudyConflict, UsageError
from mnist_search.evaluation.champion import final_evaluation
from mnist_search.evaluation.finals import (
    announcement,
    finalist_name,
    finalists,
    finals_of,
    later_stages,
    next_tasks,
    reproductions,
    select_champion,
    select_round,
    size_of_round,
)
from mnist_search.evaluation.statistics import final_rows
from mnist_search.search.study import SearchStudy, quiet_optuna

ALREADY_EVALUATED = "were already evaluated on the test set; repeating it with others would select on test"


@pytest.fixture
def record(store, study_config):
    """A study of trials 0 to 3: 2 is the best, 0 and 1 have equal accuracy."""
    search_study = SearchStudy.open_or_create(store, "study", study_config, 4)
    for accuracy, loss in ((0.98, 0.2), (0.98, 0.1), (0.99, 0.3), (0.97, 0.05)):
        complete_trial(search_study, accuracy, loss=loss)
    return search_study.record()


def tasks_of(record, top, seeds, trials=(), *, number=1, evaluate_all=True):
    best = finalists(record, top)
    return next_tasks(record, best, trials, number=number, seeds=seeds, evaluate_all=evaluate_all)


def test_finalists_rank_by_accuracy_then_loss(record):
    tasks = tasks_of(record, top=3, seeds=2)

    assert [task.name for task in tasks] == ["trial 2", "trial 1", "trial 0"] * 2
    assert [task.seed for task in tasks] == [0, 0, 0, 1, 1, 1]
    best = record.config.space.decode(record.best.params)
    assert (tasks[0].architecture, tasks[0].training) == (best.architecture, best.training)
    assert all((task.evaluate, task.split) == ("once", None) for task in tasks)


def test_finalists_are_refused_when_no_trial_is_complete(store, study_config):
    with pytest.raises(NotFound, match="no complete trial"):
        finalists(SearchStudy.open_or_create(store, "empty", study_config, 1).record(), 5)


def run_stages(store, record, accuracies, *, top, seeds):
    """Run stages with the given accuracies of repeated and final trainings; names and seeds by stage."""
    finals = open_finals(store, record)
    left, stages = list(accuracies), []
    while not stages or stages[-1][0].split:
        tasks = tasks_of(record, top, seeds, finals.record().of_round(1), evaluate_all=False)
        finals.add(tasks, later_stages(tasks, seeds))
        assert finals.record().n_trials == len(accuracies)
        for _ in tasks:
            finish_final(finals, left.pop(0))
        stages.append(tasks)
    assert left == []
    return [[(task.name, task.seed) for task in tasks] for tasks in stages]


def test_better_half_of_the_finalists_is_repeated_until_one_is_left(store, record):
    """Trial 2 leads in the search with 0.99, and trial 0 in the mean."""
    accuracies = [0.90, 0.97, 0.99, 0.98, 0.99, 0.95, 0.5, 0.6]

    stages = run_stages(store, record, accuracies, top=4, seeds=2)

    assert stages == [
        [("trial 2", 100), ("trial 1", 100), ("trial 0", 100), ("trial 3", 100)],
        [("trial 0", 101), ("trial 1", 101)],
        [("trial 0", 0), ("trial 0", 1)],
    ]
    trials = finals_of(store, record).of_round(1)
    assert select_champion(record, trials).number == 0
    assert (trials[0].val_accuracy, trials[0].test_accuracy) == (0.90, None)
    assert (trials[-1].val_accuracy, trials[-1].test_accuracy) == (None, 0.6)
    rows = final_rows(store, record)
    assert [(row["name"], row["champion"], row["n_seeds"], row["n_val_seeds"]) for row in rows] == [
        ("trial 0", True, 2, 3), ("trial 1", False, 0, 3), ("trial 3", False, 0, 2), ("trial 2", False, 0, 2),
    ]  # fmt: skip
    assert rows[0]["val_accuracy_mean"] == pytest.approx((0.98 + 0.99 + 0.99) / 3)
    assert rows[0]["test_accuracy_mean"] == pytest.approx(0.55)
    assert rows[1]["test_accuracy_mean"] is None
    assert final_evaluation(store, record).trial.number == 0


def test_default_finals_are_twelve_training_runs_on_two_splits(store, record):
    """Four finalists here; five have one repeated training more."""
    stages = run_stages(store, record, [0.9] * 11, top=5, seeds=5)

    assert list(map(len, stages)) == [4, 2, 5]
    tasks = [trial.task for trial in finals_of(store, record).trials]
    assert [task.split for task in tasks] == [record.config.split] * 6 + [None] * 5


def test_a_single_finalist_is_not_repeated(store, record):
    assert run_stages(store, record, [0.9] * 3, top=1, seeds=3) == [[("trial 2", seed) for seed in range(3)]]


def test_a_finalist_whose_repeated_training_diverged_is_not_the_champion(store, record):
    stages = run_stages(store, record, [None, 0.5, 0.6], top=2, seeds=1)

    assert stages[-1] == [("trial 1", 0)]


def test_failed_repeat_is_trained_again_before_the_next_stage(store, record):
    finals = open_finals(store, record)
    tasks = tasks_of(record, 2, 1, evaluate_all=False)
    finals.add(tasks)
    finish_final(finals, 0.9)
    finish_final(finals, None, reason="error: RuntimeError: no kernel")

    again = tasks_of(record, 2, 1, finals.record().of_round(1), evaluate_all=False)

    assert again == tasks


def test_champion_between_two_stages_is_not_evaluated(store, record):
    finals = open_finals(store, record)
    finals.add(tasks_of(record, 2, 1, evaluate_all=False))
    finish_final(finals, 0.9)
    finish_final(finals, 0.8)

    assert final_evaluation(store, record) is None
    with pytest.raises(StudyConflict, match="are unfinished"):
        selected(store, record, top=1, seeds=1)
    assert selected(store, record, top=2, seeds=1) == 1


def test_stage_is_announced_until_it_is_finished(store, record):
    finals = open_finals(store, record)
    repeats = tasks_of(record, 4, 3, evaluate_all=False)
    assert announcement(repeats, []).startswith("4 finalists are trained again on the search's split")
    finals.add(repeats)
    for _ in repeats:
        finish_final(finals, 0.9)
    trials = finals.record().of_round(1)

    assert announcement(repeats, trials) is None
    assert announcement(tasks_of(record, 1, 3), trials) == (
        "trial 2 is trained on all 60,000 images with 3 seeds, and evaluated on the test set: "
        "best mean validation accuracy (repeated: 90.00 %)"
    )


def test_search_with_an_evaluated_champion_keeps_it_when_all_finalists_are_evaluated(store, record):
    """A dropped finalist has a higher mean than the champion after its last repeated training."""
    run_stages(store, record, [0.97, 0.98, 0.95, 0.97, 0.5, 0.4, 0.9], top=4, seeds=1)
    champion = select_champion(record, finals_of(store, record).of_round(1)).number
    finals = open_finals(store, record)
    finals.add(tasks_of(record, 4, 1))
    for _ in range(3):
        finish_final(finals, 0.99)

    assert select_champion(record, finals.record().of_round(1)).number == champion


def selected(store, record, *, top, seeds, again=False):
    names = [finalist_name(trial) for trial in finalists(record, top)]
    return select_round(finals_of(store, record), record.name, names, seeds, again=again)


def test_unfinished_finals_continue_and_other_finalists_are_refused(store, record):
    finish_finals(store, record, [0.99], top=2, seeds=2)

    assert selected(store, record, top=2, seeds=2) == 1
    for other in ({"top": 3, "seeds": 2}, {"top": 2, "seeds": 1}):
        with pytest.raises(StudyConflict, match="are unfinished"):
            selected(store, record, **other)


def test_finished_finals_are_repeated_only_with_again(store, record):
    finish_finals(store, record, [0.99] * 4, top=2, seeds=2)

    for top in (1, 3):
        with pytest.raises(UsageError, match=ALREADY_EVALUATED):
            selected(store, record, top=top, seeds=9)
    assert selected(store, record, top=2, seeds=2) == 1  # nothing is left to train
    assert selected(store, record, top=3, seeds=2, again=True) == 2
    assert selected(store, record, top=2, seeds=2, again=True) == 2

    open_finals(store, record).add(tasks_of(record, 2, 2, number=2))

    for again in (True, False):
        assert selected(store, record, top=2, seeds=2, again=again) == 2
    assert len(open_finals(store, record).record().current) == 8


def test_finalists_of_a_later_search_are_a_new_round(store, study_config):
    search_study = SearchStudy.open_or_create(store, "study", study_config, 4)
    for accuracy in (0.98, 0.97):
        complete_trial(search_study, accuracy)
    finish_finals(store, search_study.record(), [0.99], top=1, seeds=1)
    complete_trial(search_study, 0.99)

    assert selected(store, search_study.record(), top=1, seeds=1) == 2
    with pytest.raises(UsageError, match=ALREADY_EVALUATED):
        selected(store, search_study.record(), top=2, seeds=1)


def test_options_that_are_not_given_are_those_of_the_last_round(store, record):
    assert size_of_round(finals_of(store, record)) == (5, 5)
    finals = open_finals(store, record)
    tasks = tasks_of(record, 2, 1, evaluate_all=False)
    finals.add(tasks)
    assert size_of_round(finals.record()) == (2, 5)  # as in a store of an earlier version
    finals.add(tasks, later_stages(tasks, 3))
    assert size_of_round(finals.record()) == (2, 3)
    for _ in range(2):
        finish_final(finals, 0.9)
    finals.add(tasks_of(record, 2, 3, finals.record().of_round(1), evaluate_all=False))

    assert size_of_round(finals.record()) == (2, 3)


def test_seeds_are_added_to_finished_finals(store, record):
    finals = finish_finals(store, record, [0.99] * 2, top=1, seeds=2)

    assert selected(store, record, top=1, seeds=4) == 1
    finals.add(tasks_of(record, 1, 4))

    assert [trial.state for trial in finals.record().current] == ["COMPLETE"] * 2 + ["WAITING"] * 2
    assert selected(store, record, top=1, seeds=4) == 1


def test_waiting_finals_of_an_abandoned_round_are_not_trained(store, record):
    finals = finish_finals(store, record, [0.99], top=1, seeds=3)
    finals.queue.release(finals.claim())

    number = selected(store, record, top=1, seeds=2, again=True)
    finals.add(tasks_of(record, 1, 2, number=number))

    claims = [finals.claim() for _ in range(3)]
    assert [claim and claim.trial.user_attrs["task"]["round"] for claim in claims] == [2, 2, None]
    assert (len(finals.record().done), finals.record().n_trials) == (0, 2)


def test_failed_finals_are_added_again_and_diverged_ones_are_not(store, record):
    finals = finish_finals(store, record, [0.99], top=2, seeds=2)
    finish_final(finals, None, reason="diverged: loss nan")
    finish_final(finals, None, reason="error: RuntimeError: no kernel")
    finish_final(finals, 0.98)

    tasks = tasks_of(record, 2, 2)
    finals.add(tasks)
    finals.add(tasks)

    assert selected(store, record, top=2, seeds=2) == 1
    trials = finals.record().current
    assert [trial.state for trial in trials] == ["COMPLETE", "FAIL", "WAITING", "COMPLETE"]
    assert [trial.number for trial in trials] == [0, 1, 4, 3]


def test_a_task_with_another_training_is_refused(store, record):
    finals = finish_finals(store, record, [0.99], top=1, seeds=1)
    (task,) = tasks_of(record, 1, 1)

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
