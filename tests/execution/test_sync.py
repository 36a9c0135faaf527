"""TrackerSync makes the tracker agree with the store."""

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
def sync(search_study, tracker, small_split):
    return TrackerSync(search_study, tracker, lambda: small_split.val)


def finish(search_study, state="COMPLETE", accuracy=0.5, keep=2):
    """Finish a trial in the store only, as a worker that crashes before it logs the end."""
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


def test_sync_logs_missing_runs(search_study, tracker, sync):
    for state in ("COMPLETE", "PRUNED", "FAIL"):
        finish(search_study, state)

    record = sync.sync()

    ends = {run.info.number: run.trial_end for run in tracker.runs.values()}
    assert {n: end.state for n, end in ends.items()} == {0: "COMPLETE", 1: "PRUNED", 2: "FAIL"}
    assert [trial.run_id for trial in record.trials] == ["run-1", "run-2", "run-3"]
    assert all(len(end.curve) == 1 for end in ends.values())


def test_second_sync_changes_nothing(search_study, tracker, sync):
    finish(search_study)
    sync.sync()
    before = (dict(tracker.runs), dict(tracker.models))

    sync.sync()

    assert (tracker.runs, tracker.models) == before


def test_sync_ends_an_open_run_of_a_finished_trial(search_study, tracker, sync):
    claim = finish(search_study)
    run = tracker.start_trial(type("Info", (), {"number": 0})())
    search_study.queue.record_run(claim.trial_id, run.run_id)

    sync.sync()

    assert len(tracker.runs) == 1
    assert run.trial_end.state == "COMPLETE"


def test_sync_deletes_the_run_of_a_released_trial(search_study, tracker, sync):
    claim = search_study.claim()
    run = tracker.start_trial(type("Info", (), {"number": 0})())
    search_study.queue.record_run(claim.trial_id, run.run_id)
    search_study.queue.release(claim)

    sync.sync()

    assert tracker.runs == {}


def test_sync_keeps_the_run_of_a_running_trial(search_study, tracker, sync):
    claim = search_study.claim()
    run = tracker.start_trial(type("Info", (), {"number": 0})())
    search_study.queue.record_run(claim.trial_id, run.run_id)

    sync.sync()

    assert list(tracker.runs) == [run.run_id]
    assert run.trial_end is None


def test_sync_keeps_the_models_of_the_best_trials_only(search_study, tracker, sync):
    for accuracy in (0.5, 0.6, 0.7, 0.4):
        finish(search_study, accuracy=accuracy)
        sync.sync()

    record = sync.sync()

    kept = {trial.number for trial in record.trials if trial.model_id}
    assert kept == {1, 2}
    assert len(tracker.models) == 2


def test_logged_model_is_counted_and_evaluated_from_the_stored_weights(
    search_study, tracker, sync, small_split
):
    finish(search_study)

    record = sync.sync()

    (payload,) = tracker.models.values()
    assert payload.num_params == record.trials[0].num_params
    assert payload.confusion.sum() == len(small_split.val)
    assert payload.example.shape == (2, 1, 28, 28)
    assert payload.example.dtype == np.float32
    assert 0 <= payload.example.min() <= payload.example.max() <= 1
    assert not payload.network.training


def test_sync_logs_missing_runs_and_models_when_the_tracker_is_available_again(search_study, tracker, sync):
    tracker.available = False
    finish(search_study)
    assert sync.sync().trials[0].run_id is None

    tracker.available = True
    record = sync.sync()

    assert record.trials[0].run_id == "run-1"
    assert record.trials[0].model_id == "model-of-run-1"


def test_sync_logs_deleted_runs_and_models_again(search_study, tracker, sync):
    finish(search_study)
    sync.sync()
    tracker.runs.clear()
    tracker.models.clear()

    record = sync.sync()

    assert len(tracker.runs) == 1
    assert record.trials[0].model_id in tracker.models


def test_sync_updates_the_summary_of_the_study(search_study, tracker, sync):
    finish(search_study)

    sync.sync(status="FINISHED")

    record, status = tracker.summaries[-1]
    assert status == "FINISHED"
    assert len(record.done) == 1
