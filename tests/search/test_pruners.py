"""Screening: its rungs, and which trials train on."""

from __future__ import annotations

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from experiments import StudyConfig
from experiments.study_config import rungs
from mnist_search.search.pruners import PRUNERS, ScreeningPruner, first_decision


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (1, (1,)),
        (2, (1, 2)),
        (3, (1, 2, 3)),
        (5, (1, 2, 5)),
        (6, (1, 2, 6)),
        (15, (2, 5, 15)),
        (30, (4, 10, 30)),
    ],
)
def test_rungs_are_at_least_one_epoch_apart_and_end_with_the_training(epochs, expected):
    assert rungs(epochs) == expected


def study_of(values, step=2, promoted=()):
    """A study whose trials have reported a value at a step, None for nothing; the last one is running.

    The ``promoted`` ones train on, the others were pruned at that step.
    """
    study = optuna.create_study(direction="maximize")
    for number, value in enumerate(values):
        is_running = value is None or number in promoted or number == len(values) - 1
        state = TrialState.RUNNING if is_running else TrialState.PRUNED
        reports = {} if value is None else {1: 0.0, step: value}
        study.add_trial(create_trial(state=state, value=0.0, intermediate_values=reports))
    return study


def is_pruned(values, step=2, promoted=()):
    study = study_of(values, step, promoted)
    return ScreeningPruner((2, 5)).prune(study, study.trials[-1])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.5], False),
        ([0.5, 0.6], False),
        ([0.6, 0.5], True),
        ([0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.8], True),
        ([0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8], False),  # two of eight train on
        ([0.9, 0.85, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8], True),
        ([0.5, 0.5], False),  # equal values are not better
        ([0.9, None, None, None, None, None, None, 0.8], True),  # the others have not reached the rung
    ],
)
def test_best_quarter_of_a_rung_trains_on(values, expected):
    assert is_pruned(values) is expected


@pytest.mark.parametrize(("promoted", "expected"), [((), False), ((0, 4), False), ((0, 1, 2), True)])
def test_a_trial_among_the_best_quarter_is_pruned_once_a_third_has_trained_on(promoted, expected):
    assert is_pruned([0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8], promoted=promoted) is expected


def test_the_best_trial_of_a_rung_trains_on_whatever_others_did():
    assert not is_pruned([0.1, 0.2, 0.3, 0.4, 0.5], promoted=(0, 1, 2, 3))


def test_a_trial_that_was_pruned_at_a_later_step_has_trained_on():
    study = study_of([0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8], promoted=(0,))
    for _ in range(2):
        values = {2: 0.7, 5: 0.7}
        study.add_trial(create_trial(state=TrialState.PRUNED, value=0.7, intermediate_values=values))
    assert not ScreeningPruner((2, 5)).prune(study, study.trials[7])
    study.add_trial(create_trial(state=TrialState.COMPLETE, value=0.7, intermediate_values={2: 0.7, 15: 0.7}))

    assert ScreeningPruner((2, 5)).prune(study, study.trials[7])


def test_nothing_is_pruned_between_the_rungs_and_before_the_first_report():
    assert not is_pruned([0.9, 0.1], step=3)
    assert not is_pruned([0.9, None])


def test_trial_trains_on_from_the_second_rung_among_those_that_reached_it():
    assert is_pruned([0.9, 0.1], step=5)
    assert not is_pruned([0.1, 0.9], step=5)


def test_trials_of_a_screened_study_restart_their_schedule_at_the_rungs():
    screened = StudyConfig.for_budget(8000, pruner="screening")
    plain = StudyConfig.for_budget(8000, pruner="median")
    training = screened.space.training(
        {
            "schedule": "cosine", "optimizer": "sgd", "sgd_lr": 0.1, "weight_decay": 0.0, "batch_size": 64,
            "label_smoothing": 0.0, "augmentation": 0.0,
        }
    )  # fmt: skip

    assert screened.training(training).parts == (2, 3, 10)
    assert plain.training(training) == training
    assert training.parts == (15,)


@pytest.mark.parametrize("name", sorted(PRUNERS.keys() - {"hyperband"}))  # its brackets are random
def test_first_decision_is_the_first_step_at_which_a_pruner_prunes(name):
    config = StudyConfig.for_budget(8000, pruner=name)
    study = optuna.create_study(direction="maximize", pruner=PRUNERS[name](15))
    for _ in range(40):
        study.add_trial(
            create_trial(
                value=0.9,
                intermediate_values=dict.fromkeys(range(1, 16), 0.9),
                system_attrs={f"completed_rung_{rung}": 0.9 for rung in range(4)},
            )
        )

    def prunes_at(epoch):
        trial = study.ask()
        for step in range(1, epoch + 1):
            trial.report(0.1, step)
        return trial.should_prune()

    decisions = [epoch for epoch in range(1, 15) if prunes_at(epoch)]
    assert first_decision(config) == min(decisions, default=15)
