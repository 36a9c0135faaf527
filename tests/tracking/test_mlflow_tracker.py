"""Trial runs in a real MLflow: SQLite, models, a server that stops and restarts."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
import torch
from support import MLFLOW_WARNINGS, free_port

from experiments import BASELINES
from mnist_search.records import EpochMetrics
from mnist_search.search.study import SearchStudy
from mnist_search.tracking.base import ModelPayload, RunInfo, TrialEnd
from mnist_search.training.model import build, count

pytestmark = MLFLOW_WARNINGS

CURVE = [
    EpochMetrics(
        epoch=epoch,
        train_loss=1 / epoch,
        train_accuracy=0.8,
        val_loss=0.5 / epoch,
        val_accuracy=0.9 + epoch / 100,
        learning_rate=0.1,
        seconds=1.5,
        samples_per_second=4000.0,
        timestamp=1_700_000_000_000 + epoch,
    )
    for epoch in (1, 2, 3)
]


def run_info(number=0):
    return RunInfo(
        number=number, num_params=7204, params={f"p{i}": i for i in range(23)}, seed=0, layer_table="layers"
    )


def test_trial_run_has_parent_tags_params_and_layer_table(local, client):
    tracker, config = local

    run = client.get_run(tracker.start_trial(run_info(7)).run_id)

    tags = run.data.tags
    assert tags["mlflow.parentRunId"] == config.parent_run_id
    assert (tags["study"], tags["trial"], tags["state"], tags["seed"]) == ("s", "7", "RUNNING", "0")
    assert tags["version"]
    assert len(run.data.params) == len(run_info().params)
    assert run.data.metrics["num_params"] == 7204
    assert "layers.txt" in [a.path for a in client.list_artifacts(run.info.run_id)]


@pytest.mark.parametrize(
    ("state", "status"), [("COMPLETE", "FINISHED"), ("PRUNED", "KILLED"), ("FAIL", "FAILED")]
)
def test_trial_run_status_follows_the_trial_state(local, client, state, status):
    tracker, _ = local
    run = tracker.start_trial(run_info())

    run.end(TrialEnd(state=state, reason="why", curve=CURVE))

    stored = client.get_run(run.run_id)
    assert stored.info.status == status
    assert (stored.data.tags["trial.state"], stored.data.tags["reason"]) == (state, "why")


def test_epochs_are_one_point_per_metric_when_logged_twice(local, client):
    tracker, _ = local
    run = tracker.start_trial(run_info())
    for epoch in CURVE[:2]:
        run.log_epoch(epoch)

    tracker.reopen_trial(run.run_id).end(TrialEnd(state="COMPLETE", reason=None, curve=CURVE))

    names = CURVE[0].to_dict().keys() - {"epoch", "timestamp"}
    for name in names:
        points = client.get_metric_history(run.run_id, name)
        assert [(p.step, p.value) for p in points] == [(e.epoch, getattr(e, name)) for e in CURVE]
    assert "learning_curve.png" in [a.path for a in client.list_artifacts(run.run_id)]


def test_logged_model_is_pt2_with_a_dynamic_batch_and_the_same_logits(local, client):
    import mlflow

    tracker, config = local
    network = build(BASELINES["seed-001"].architecture, seed=0).eval()
    run = tracker.start_trial(run_info())
    model = ModelPayload(
        network=network, example=np.full((2, 1, 28, 28), 0.5, np.float32),
        confusion=np.eye(10, dtype=int), num_params=7204, step=3, requirements=("torch",),
    )  # fmt: skip

    model_id = tracker.log_model(run.run_id, model)

    loaded = mlflow.pytorch.load_model(f"models:/{model_id}")
    for batch in (1, 3, 64):
        x = torch.rand(batch, 1, 28, 28)
        assert torch.allclose(loaded(x), network(x), atol=1e-5)
    assert count(loaded) == 7204
    (stored,) = client.search_logged_models([config.experiment_id])
    assert (stored.source_run_id, stored.status) == (run.run_id, "READY")
    files = {p.name for p in (model_folder(stored) / "data").iterdir()}
    assert files == {"model.pt2"}
    assert (model_folder(stored) / "requirements.txt").read_text().split() == [
        f"mlflow=={mlflow.__version__}",
        "torch",
    ]
    assert "confusion_matrix.png" in [a.path for a in client.list_artifacts(run.run_id)]


def model_folder(model):
    return Path(urlparse(model.artifact_location).path)


def test_deleted_model_has_no_files_left(local, client):
    tracker, config = local
    run = tracker.start_trial(run_info())
    model = ModelPayload(
        network=build(BASELINES["seed-003"].architecture, seed=0).eval(),
        example=np.zeros((2, 1, 28, 28), np.float32), confusion=np.eye(10, dtype=int),
        num_params=15578, step=1, requirements=("torch",),
    )  # fmt: skip
    model_id = tracker.log_model(run.run_id, model)
    folder = model_folder(client.get_logged_model(model_id))

    assert tracker.delete_model(model_id)
    assert tracker.delete_model(model_id)  # twice is no error

    assert not folder.exists()
    assert client.search_logged_models([config.experiment_id]) == []


def test_deleted_runs_are_not_tracked(local):
    tracker, _ = local
    kept, stale = tracker.start_trial(run_info(0)), tracker.start_trial(run_info(1))

    tracker.delete_run(stale.run_id)
    tracker.delete_run(stale.run_id)
    tracker.delete_run("0" * 32)

    assert [run.run_id for run in tracker.tracked_runs()] == [kept.run_id]


def test_parent_run_has_the_study_summary(store, study_config, make_tracker, tmp_path):
    from mlflow.tracking import MlflowClient
    from optuna.trial import TrialState

    search_study = SearchStudy.open_or_create(store, "s", study_config, n_trials=3)
    claim = search_study.claim()
    claim.trial.set_user_attr("num_params", 1234)
    claim.trial.set_user_attr("curve", [epoch.to_dict() for epoch in CURVE])
    search_study.queue.finish(claim, TrialState.COMPLETE, 0.93)
    tracker, config = make_tracker(f"sqlite:///{tmp_path}/mlflow.db")

    tracker.update_study(search_study.record(), status="KILLED")
    tracker.log_study_page("<p>report</p>", "report.html")

    client = MlflowClient(config.tracking_uri)
    parent = client.get_run(config.parent_run_id)
    note = parent.data.tags["mlflow.note.content"]
    assert "1 of 3 trials done (1 complete, 0 pruned, 0 fail)" in note
    assert "| 1 | 0 | 93.00 % | 1,234 |" in note
    assert parent.data.metrics["best_val_accuracy"] == 0.93
    assert (parent.data.tags["trials"], parent.info.status) == ("1/3", "KILLED")
    assert {a.path for a in client.list_artifacts(config.parent_run_id)} == {"leaderboard.csv", "report.html"}


@contextmanager
def mlflow_server(folder, port):
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/server.db",
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=folder)
    try:
        for _ in range(240):
            time.sleep(0.25)
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except OSError:
                continue
        else:
            pytest.fail((folder / "server.log").read_text())
        yield
    finally:
        server.terminate()
        server.wait(30)


def test_trial_continues_during_an_outage_and_logs_missing_epochs_afterwards(
    make_tracker, warnings, tmp_path, monkeypatch
):
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    port = free_port()
    with mlflow_server(tmp_path, port):
        tracker, config = make_tracker(f"http://127.0.0.1:{port}", cooldown_seconds=0)
        run = tracker.start_trial(run_info())
        run.log_epoch(CURVE[0])

    run.log_epoch(CURVE[1])
    assert tracker.start_trial(run_info(1)).run_id is None
    assert tracker.tracked_runs() is None
    assert len(warnings) == 1
    assert "training continues" in warnings[0]

    with mlflow_server(tmp_path, port):
        run.log_epoch(CURVE[2])
        run.end(TrialEnd(state="COMPLETE", reason=None, curve=CURVE))
        client = MlflowClient(config.tracking_uri)
        points = client.get_metric_history(run.run_id, "val_accuracy")
        assert [point.step for point in points] == [1, 2, 3]
        assert client.get_run(run.run_id).info.status == "FINISHED"
