"""The tracker says what the store says, whatever happened to either."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import RecordingTracker
from optuna.trial import TrialState
from safetensors.torch import save

from mnist_search.study.ledger import Ledger
from mnist_search.study.mirror import Mirror
from mnist_search.training.model import build


@pytest.fixture
def ledger(store, experiment):
    return Ledger.open_or_create(store, "s", experiment, target=10)


@pytest.fixture
def tracker():
    return RecordingTracker()


@pytest.fixture
def mirror(ledger, tracker, small_split):
    return Mirror(ledger, tracker, lambda: small_split.val)


def finish(ledger, state="COMPLETE", accuracy=0.5, keep=2):
    """Settle a trial in the store alone, as a worker does that dies before it tells the tracker."""
    claim = ledger.claim()
    architecture = ledger.experiment.space.architecture(claim.trial.params)
    network = build(architecture, seed=0)
    claim.trial.set_user_attr("num_params", architecture.num_params())
    record = {"epoch": 1, "val_accuracy": accuracy, "val_loss": 1.0, "timestamp": 1}
    claim.trial.set_user_attr("curve", [record])
    claim.trial.report(accuracy, 1)
    done = state == "COMPLETE"
    trained = save(network.state_dict()) if done else None
    ledger.settle(claim, TrialState[state], accuracy if done else None, trained=trained, keep=keep)
    return claim


def test_runs_that_were_never_written_are_written_from_the_store(ledger, tracker, mirror):
    for state in ("COMPLETE", "PRUNED", "FAIL"):
        finish(ledger, state)

    facts = mirror.reconcile()

    endings = {run.card.number: run.ending for run in tracker.runs.values()}
    assert {n: e.state for n, e in endings.items()} == {0: "COMPLETE", 1: "PRUNED", 2: "FAIL"}
    assert [trial.run_id for trial in facts.trials] == ["run-1", "run-2", "run-3"]
    assert all(len(ending.curve) == 1 for ending in endings.values())


def test_a_second_reconciliation_changes_nothing(ledger, tracker, mirror):
    finish(ledger)
    mirror.reconcile()
    before = (dict(tracker.runs), dict(tracker.models))

    mirror.reconcile()

    assert (tracker.runs, tracker.models) == before


def test_a_run_that_was_left_open_is_closed_and_not_written_twice(ledger, tracker, mirror):
    claim = finish(ledger)
    run = tracker.start_trial(type("Card", (), {"number": 0})())
    ledger.remember_mirror(claim.trial_id, run.run_id)

    mirror.reconcile()

    assert len(tracker.runs) == 1
    assert run.ending.state == "COMPLETE"


def test_a_run_of_a_trial_that_was_put_back_is_taken_away(ledger, tracker, mirror):
    claim = ledger.claim()
    run = tracker.start_trial(type("Card", (), {"number": 0})())
    ledger.remember_mirror(claim.trial_id, run.run_id)
    ledger.put_back(claim)

    mirror.reconcile()

    assert tracker.runs == {}


def test_the_run_of_a_trial_that_trains_is_left_alone(ledger, tracker, mirror):
    claim = ledger.claim()
    run = tracker.start_trial(type("Card", (), {"number": 0})())
    ledger.remember_mirror(claim.trial_id, run.run_id)

    mirror.reconcile()

    assert list(tracker.runs) == [run.run_id]
    assert run.ending is None


def test_only_the_best_networks_have_models_and_the_others_are_dropped(ledger, tracker, mirror):
    for accuracy in (0.5, 0.6, 0.7, 0.4):
        finish(ledger, accuracy=accuracy)
        mirror.reconcile()

    facts = mirror.reconcile()

    kept = {trial.number for trial in facts.trials if trial.model_id}
    assert kept == {1, 2}
    assert len(tracker.models) == 2


def test_a_published_model_is_recounted_and_judged_from_the_stored_weights(
    ledger, tracker, mirror, small_split
):
    finish(ledger)

    facts = mirror.reconcile()

    (card,) = tracker.models.values()
    assert card.num_params == facts.trials[0].num_params
    assert card.confusion.sum() == len(small_split.val)
    assert card.example.shape == (2, 1, 28, 28)
    assert card.example.dtype == np.float32
    assert 0 <= card.example.min() <= card.example.max() <= 1
    assert not card.network.training


def test_what_was_missed_while_the_tracker_was_down_is_written_once_it_is_back(ledger, tracker, mirror):
    tracker.reachable = False
    finish(ledger)
    assert mirror.reconcile().trials[0].run_id is None

    tracker.reachable = True
    facts = mirror.reconcile()

    assert facts.trials[0].run_id == "run-1"
    assert facts.trials[0].model_id == "model-of-run-1"


def test_runs_that_were_lost_with_the_tracker_are_written_again(ledger, tracker, mirror):
    finish(ledger)
    mirror.reconcile()
    tracker.runs.clear()
    tracker.models.clear()

    facts = mirror.reconcile()

    assert len(tracker.runs) == 1
    assert facts.trials[0].model_id in tracker.models


def test_the_summary_tells_the_state_of_the_study(ledger, tracker, mirror):
    finish(ledger)

    mirror.reconcile(status="FINISHED")

    facts, status = tracker.summaries[-1]
    assert status == "FINISHED"
    assert len(facts.done) == 1
