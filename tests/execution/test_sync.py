"""The tracker says what the store says, whatever happened to either."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import RecordingTracker
from optuna.trial import TrialState
from safetensors.torch import save

from mnist_search.execution.sync import TrackerSync
from mnist_search.search.study import SearchStudy
from mnist_search.training.model import build


@pytest.fixture
def search_study(store, study_config):
    return SearchStudy.open_or_create(store, "s", study_config, n_trials=10)


@pytest.fixture
def tracker():
    return RecordingTracker()


@pytest.fixture
def mirror(search_study, tracker, small_split):
    return TrackerSync(search_study, tracker, lambda: small_split.val)


def finish(search_study, state="COMPLETE", accuracy=0.5, keep=2):
    """Settle a trial in the store alone, as a worker does that dies before it tells the tracker."""
    claim = search_study.claim()
    architecture = search_study.config.space.architecture(claim.trial.params)
    network = build(architecture, seed=0)
    claim.trial.set_user_attr("num_params", architecture.num_params())
    record = {"epoch": 1, "val_accuracy": accuracy, "val_loss": 1.0, "timestamp": 1}
    claim.trial.set_user_attr("curve", [record])
    claim.trial.report(accuracy, 1)
    done = state == "COMPLETE"
    trained = save(network.state_dict()) if done else None
    search_study.queue.finish(
        claim, TrialState[state], accuracy if done else None, safetensors=trained, keep=keep
    )
    return claim


def test_runs_that_were_never_written_are_written_from_the_store(search_study, tracker, mirror):
    for state in ("COMPLETE", "PRUNED", "FAIL"):
        finish(search_study, state)

    record = mirror.reconcile()

    endings = {run.card.number: run.ending for run in tracker.runs.values()}
    assert {n: e.state for n, e in endings.items()} == {0: "COMPLETE", 1: "PRUNED", 2: "FAIL"}
    assert [trial.run_id for trial in record.trials] == ["run-1", "run-2", "run-3"]
    assert all(len(ending.curve) == 1 for ending in endings.values())


def test_a_second_reconciliation_changes_nothing(search_study, tracker, mirror):
    finish(search_study)
    mirror.reconcile()
    before = (dict(tracker.runs), dict(tracker.models))

    mirror.reconcile()

    assert (tracker.runs, tracker.models) == before


def test_a_run_that_was_left_open_is_closed_and_not_written_twice(search_study, tracker, mirror):
    claim = finish(search_study)
    run = tracker.start_trial(type("Card", (), {"number": 0})())
    search_study.queue.record_run(claim.trial_id, run.run_id)

    mirror.reconcile()

    assert len(tracker.runs) == 1
    assert run.ending.state == "COMPLETE"


def test_a_run_of_a_trial_that_was_put_back_is_taken_away(search_study, tracker, mirror):
    claim = search_study.claim()
    run = tracker.start_trial(type("Card", (), {"number": 0})())
    search_study.queue.record_run(claim.trial_id, run.run_id)
    search_study.queue.release(claim)

    mirror.reconcile()

    assert tracker.runs == {}


def test_the_run_of_a_trial_that_trains_is_left_alone(search_study, tracker, mirror):
    claim = search_study.claim()
    run = tracker.start_trial(type("Card", (), {"number": 0})())
    search_study.queue.record_run(claim.trial_id, run.run_id)

    mirror.reconcile()

    assert list(tracker.runs) == [run.run_id]
    assert run.ending is None


def test_only_the_best_networks_have_models_and_the_others_are_dropped(search_study, tracker, mirror):
    for accuracy in (0.5, 0.6, 0.7, 0.4):
        finish(search_study, accuracy=accuracy)
        mirror.reconcile()

    record = mirror.reconcile()

    kept = {trial.number for trial in record.trials if trial.model_id}
    assert kept == {1, 2}
    assert len(tracker.models) == 2


def test_a_published_model_is_recounted_and_judged_from_the_stored_weights(
    search_study, tracker, mirror, small_split
):
    finish(search_study)

    record = mirror.reconcile()

    (card,) = tracker.models.values()
    assert card.num_params == record.trials[0].num_params
    assert card.confusion.sum() == len(small_split.val)
    assert card.example.shape == (2, 1, 28, 28)
    assert card.example.dtype == np.float32
    assert 0 <= card.example.min() <= card.example.max() <= 1
    assert not card.network.training


def test_what_was_missed_while_the_tracker_was_down_is_written_once_it_is_back(search_study, tracker, mirror):
    tracker.reachable = False
    finish(search_study)
    assert mirror.reconcile().trials[0].run_id is None

    tracker.reachable = True
    record = mirror.reconcile()

    assert record.trials[0].run_id == "run-1"
    assert record.trials[0].model_id == "model-of-run-1"


def test_runs_that_were_lost_with_the_tracker_are_written_again(search_study, tracker, mirror):
    finish(search_study)
    mirror.reconcile()
    tracker.runs.clear()
    tracker.models.clear()

    record = mirror.reconcile()

    assert len(tracker.runs) == 1
    assert record.trials[0].model_id in tracker.models


def test_the_summary_tells_the_state_of_the_study(search_study, tracker, mirror):
    finish(search_study)

    mirror.reconcile(status="FINISHED")

    record, status = tracker.summaries[-1]
    assert status == "FINISHED"
    assert len(record.done) == 1
