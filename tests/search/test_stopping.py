"""Stop conditions that depend on the study's trials."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime, timedelta

import pytest

from experiments import StudyConfig
from mnist_search.records import StudyRecord, TrialRecord
from mnist_search.search.stopping import StopConditions
from search_space import SearchSpace

CONFIG = StudyConfig(budget=8000, space=SearchSpace())


def record_of(*accuracies):
    """A study whose trials completed in this order; None is a pruned trial."""
    trials = [
        TrialRecord(
            **dict.fromkeys((field.name for field in fields(TrialRecord)), None)
            | {
                "number": number,
                "trial_id": number,
                "state": "PRUNED" if accuracy is None else "COMPLETE",
                "num_params": 7000,
                "val_accuracy": accuracy,
                "is_over_budget": False,
                "completed": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=number),
            }
        )
        for number, accuracy in enumerate(accuracies)
    ]
    return StudyRecord(name="study", uid="uid", config=CONFIG, n_trials=9, trials=trials)


@pytest.mark.parametrize(
    ("accuracies", "reason"),
    [
        ((), None),
        ((None, None, None), None),
        ((0.9, 0.8), None),
        ((0.9, 0.8, 0.95, None), None),
        ((0.9, 0.8, None), "no improvement in 2 trials since trial 0"),
    ],
)
def test_patience_counts_finished_trials_since_the_best(accuracies, reason):
    assert StopConditions(patience=2).reached(record_of(*accuracies)) == reason


@pytest.mark.parametrize(
    ("accuracy", "reason"), [(0.98, None), (0.99, "trial 0 reached the target accuracy of 0.9900")]
)
def test_target_accuracy_stops_the_study(accuracy, reason):
    assert StopConditions(target_accuracy=0.99).reached(record_of(accuracy)) == reason
