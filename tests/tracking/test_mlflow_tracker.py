"""The mirror in a real MLflow: real SQLite, real models, a real server that goes away."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from support import free_port

from experiments import BASELINES
from mnist_search.errors import UnusableConfiguration
from mnist_search.records import FinalResult, FinalTask, StudyRecord
from mnist_search.search.study import SearchStudy
from mnist_search.tracking.base import ModelPayload, RunInfo, TrialEnd
from mnist_search.tracking.config import make_tracking_config
from mnist_search.tracking.final_runs import FinalsTracker
from mnist_search.training.model import build, count

pytestmark = pytest.mark.filterwarnings(
    "ignore::sqlalchemy.exc.SADeprecationWarning",  # MLflow 3.17 on SQLAlchemy 2.1
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::UserWarning",
)

ROOT = Path(__file__).parents[2]
NOBODY = ["unshare", "--user", "--map-user=10001", "--map-group=10001"]


def can_be_nobody():
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*NOBODY, "true"], capture_output=True, check=False).returncode == 0


CURVE = [
    {
        "epoch": epoch, "train_loss": 1 / epoch, "train_accuracy": 0.8, "val_loss": 0.5 / epoch,
        "val_accuracy": 0.9 + epoch / 100, "learning_rate": 0.1, "seconds": 1.5,
        "samples_per_second": 4000.0, "timestamp": 1_700_000_000_000 + epoch,
    }
    for epoch in (1, 2, 3)
]  # fmt: skip


def card(number=0):
    return RunInfo(
        number=number, num_params=7204, params={f"p{i}": i for i in range(23)}, seed=0, layer_table="layers"
    )


@pytest.fixture
def record(study_config) -> StudyRecord:
    return StudyRecord(name="s", uid="u-1", config=study_config, n_trials=5, trials=[])


@pytest.fixture
def warnings_heard():
    return []


@pytest.fixture
def make_tracker(record, warnings_heard):
    from mnist_search.tracking.mlflow_tracker import MlflowTracker
    from mnist_search.tracking.setup import parent_of, prepare

    def make(uri, **settings):
        tracking_config = prepare(
            make_tracking_config(uri, "experiment"), parent_of(record), warnings_heard.append
        )
        return MlflowTracker(tracking_config, "s", warnings_heard.append, **settings), tracking_config

    return make


@pytest.fixture
def local(make_tracker, tmp_path):
    return make_tracker(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture
def client(local):
    from mlflow.tracking import MlflowClient

    return MlflowClient(local[1].tracking_uri)


def test_a_study_has_one_parent_run_for_ever(local, make_tracker):
    _, tracking_config = local

    _, again = make_tracker(tracking_config.tracking_uri)

    assert again == tracking_config


def test_a_trials_run_is_a_child_with_tags_parameters_and_layers(local, client):
    tracker, tracking_config = local

    run = client.get_run(tracker.start_trial(card(7)).run_id)

    tags = run.data.tags
    assert tags["mlflow.parentRunId"] == tracking_config.parent_run_id
    assert (tags["study"], tags["trial"], tags["state"], tags["seed"]) == ("s", "7", "RUNNING", "0")
    assert tags["version"]
    assert len(run.data.params) == len(card().params)
    assert run.data.metrics["num_params"] == 7204
    assert "layers.txt" in [a.path for a in client.list_artifacts(run.info.run_id)]


@pytest.mark.parametrize(
    ("state", "status"), [("COMPLETE", "FINISHED"), ("PRUNED", "KILLED"), ("FAIL", "FAILED")]
)
def test_only_complete_trials_are_shown_as_finished(local, client, state, status):
    tracker, _ = local
    run = tracker.start_trial(card())

    run.end(TrialEnd(state=state, reason="why", curve=CURVE))

    stored = client.get_run(run.run_id)
    assert stored.info.status == status
    assert (stored.data.tags["trial.state"], stored.data.tags["reason"]) == (state, "why")


def test_every_epoch_is_one_point_of_every_metric_also_when_it_is_written_twice(local, client):
    tracker, _ = local
    run = tracker.start_trial(card())
    for epoch in CURVE[:2]:
        run.log_epoch(epoch)

    tracker.reopen_trial(run.run_id).end(TrialEnd(state="COMPLETE", reason=None, curve=CURVE))

    names = set(CURVE[0]) - {"epoch", "timestamp"}
    for name in names:
        points = client.get_metric_history(run.run_id, name)
        assert [(p.step, p.value) for p in points] == [(e["epoch"], e[name]) for e in CURVE]
    assert "learning_curve.png" in [a.path for a in client.list_artifacts(run.run_id)]


def test_a_logged_model_is_pt2_takes_any_batch_and_gives_the_same_logits(local, client):
    import mlflow

    tracker, tracking_config = local
    network = build(BASELINES["seed-001"].architecture, seed=0).eval()
    run = tracker.start_trial(card())
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
    (stored,) = client.search_logged_models([tracking_config.experiment_id])
    assert (stored.source_run_id, stored.status) == (run.run_id, "READY")
    files = {p.name for p in (client_path(stored) / "data").iterdir()}
    assert files == {"model.pt2"}
    assert (client_path(stored) / "requirements.txt").read_text().split() == [
        f"mlflow=={mlflow.__version__}",
        "torch",
    ]
    assert "confusion_matrix.png" in [a.path for a in client.list_artifacts(run.run_id)]


def client_path(model):
    from pathlib import Path
    from urllib.parse import urlparse

    return Path(urlparse(model.artifact_location).path)


def test_a_dropped_model_is_gone_with_its_files(local, client):
    tracker, tracking_config = local
    run = tracker.start_trial(card())
    model = ModelPayload(
        network=build(BASELINES["seed-003"].architecture, seed=0).eval(),
        example=np.zeros((2, 1, 28, 28), np.float32), confusion=np.eye(10, dtype=int),
        num_params=15578, step=1, requirements=("torch",),
    )  # fmt: skip
    model_id = tracker.log_model(run.run_id, model)
    folder = client_path(client.get_logged_model(model_id))

    assert tracker.delete_model(model_id)
    assert tracker.delete_model(model_id)  # twice is no error

    assert not folder.exists()
    assert client.search_logged_models([tracking_config.experiment_id]) == []


def test_a_discarded_run_is_no_longer_known(local):
    tracker, _ = local
    kept, stale = tracker.start_trial(card(0)), tracker.start_trial(card(1))

    tracker.delete_run(stale.run_id)
    tracker.delete_run(stale.run_id)
    tracker.delete_run("0" * 32)

    assert [run.run_id for run in tracker.tracked_runs()] == [kept.run_id]


def test_the_parent_run_carries_a_live_summary(store, study_config, make_tracker, tmp_path):
    from mlflow.tracking import MlflowClient
    from optuna.trial import TrialState

    search_study = SearchStudy.open_or_create(store, "s", study_config, n_trials=3)
    claim = search_study.claim()
    claim.trial.set_user_attr("num_params", 1234)
    claim.trial.set_user_attr("curve", CURVE)
    search_study.queue.finish(claim, TrialState.COMPLETE, 0.93)
    tracker, tracking_config = make_tracker(f"sqlite:///{tmp_path}/mlflow.db")

    tracker.update_study(search_study.record(), status="KILLED")
    tracker.log_study_page("<p>plots</p>", "plots.html")

    client = MlflowClient(tracking_config.tracking_uri)
    parent = client.get_run(tracking_config.parent_run_id)
    note = parent.data.tags["mlflow.note.content"]
    assert "1 of 3 trials done (1 complete, 0 pruned, 0 fail)" in note
    assert "| 1 | 0 | 93.00 % | 1,234 |" in note
    assert parent.data.metrics["best_val_accuracy"] == 0.93
    assert (parent.data.tags["trials"], parent.info.status) == ("1/3", "KILLED")
    assert {a.path for a in client.list_artifacts(tracking_config.parent_run_id)} == {
        "leaderboard.csv",
        "plots.html",
    }


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


def test_a_server_that_goes_away_stops_no_trial_and_gets_all_when_it_is_back(
    make_tracker, warnings_heard, tmp_path, monkeypatch
):
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    port = free_port()
    with mlflow_server(tmp_path, port):
        tracker, tracking_config = make_tracker(f"http://127.0.0.1:{port}", quiet_seconds=0)
        run = tracker.start_trial(card())
        run.log_epoch(CURVE[0])

    run.log_epoch(CURVE[1])
    assert tracker.start_trial(card(1)).run_id is None
    assert tracker.tracked_runs() is None
    assert len(warnings_heard) == 1
    assert "training goes on" in warnings_heard[0]

    with mlflow_server(tmp_path, port):
        run.log_epoch(CURVE[2])
        run.end(TrialEnd(state="COMPLETE", reason=None, curve=CURVE))
        client = MlflowClient(tracking_config.tracking_uri)
        points = client.get_metric_history(run.run_id, "val_accuracy")
        assert [point.step for point in points] == [1, 2, 3]
        assert client.get_run(run.run_id).info.status == "FINISHED"


def test_a_server_that_is_not_there_is_no_place_for_runs(record, warnings_heard, monkeypatch):
    from mnist_search.tracking.setup import parent_of, prepare

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracking_config = make_tracking_config(f"http://127.0.0.1:{free_port()}", "experiment")

    assert prepare(tracking_config, parent_of(record), warnings_heard.append) is None
    assert len(warnings_heard) == 1


TASK = FinalTask(
    name="trial 3", seed=2, architecture=BASELINES["seed-001"].architecture,
    training=BASELINES["seed-001"].training, judged="every epoch",
)  # fmt: skip
VALIDATION_OR_TEST = [
    {"epoch": epoch, "train_loss": 1 / epoch, "test_accuracy": 0.9 + epoch / 100, "timestamp": 1000 * epoch}
    for epoch in (1, 2, 3)
]


def test_a_final_training_is_written_once_beside_the_trials(local, client):
    tracker, tracking_config = local
    finals = FinalsTracker(tracking_config, "final/u-1/1", pytest.fail)
    result = FinalResult(test_accuracy=0.93, test_loss=0.2, curve=VALIDATION_OR_TEST, version="1")

    run_id = finals.log(TASK, result)

    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == tracking_config.parent_run_id
    assert run.data.metrics["num_params"] == 7204
    assert [m.value for m in client.get_metric_history(run_id, "test_accuracy")] == [0.91, 0.92, 0.93]
    assert (run.data.params["schedule"], run.data.params["final_seed"]) == ("plateau", "2")
    assert finals.log(TASK, result) == run_id
    assert (
        finals.log(TASK, FinalResult(test_accuracy=0.92, test_loss=0.2, curve=VALIDATION_OR_TEST)) != run_id
    )
    assert tracker.tracked_runs() == []


def test_a_final_run_whose_writer_died_is_written_anew(local, client):
    finals = FinalsTracker(local[1], "final/u-1/1", pytest.fail)
    result = FinalResult(test_accuracy=0.93, test_loss=0.2, curve=VALIDATION_OR_TEST)
    half = finals.log(TASK, result)
    client.update_run(half, "RUNNING")

    whole = finals.log(TASK, result)

    assert whole != half
    assert client.get_run(half).info.lifecycle_stage == "deleted"


def test_a_final_training_that_diverged_has_failed(local, client):
    finals = FinalsTracker(local[1], "final/u-1/1", pytest.fail)

    run = client.get_run(finals.log(TASK, FinalResult(failure="diverged: loss nan at step 50")))

    assert (run.info.status, run.data.tags["reason"]) == ("FAILED", "diverged: loss nan at step 50")
    assert "test_accuracy" not in run.data.metrics


@pytest.mark.skipif(not can_be_nobody(), reason="no user namespaces here")
def test_a_user_without_a_name_is_told_as_unknown(tmp_path):
    """A container runs under a number that stands in no list of users."""
    ask = "from mnist_search.tracking.setup import user; print(user())"

    bare = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}  # neither USER nor LOGNAME
    told = subprocess.run(
        [*NOBODY, sys.executable, "-c", ask], env=bare, capture_output=True, text=True, check=True, cwd=ROOT
    )

    assert told.stdout.strip() == "unknown"


@pytest.mark.parametrize("uri", ["file:./mlruns", "./mlruns", "shopping list"])
def test_what_mlflow_cannot_keep_runs_in_is_refused(uri):
    with pytest.raises(UnusableConfiguration, match="MLflow cannot keep runs in"):
        make_tracking_config(uri, "experiment")


@pytest.mark.usefixtures("store")
def test_a_file_that_is_no_mlflow_database_is_refused_and_left_alone(tmp_path):
    before = (tmp_path / "store.db").read_bytes()

    with pytest.raises(UnusableConfiguration, match="no MLflow database"):
        make_tracking_config(f"sqlite:///{tmp_path}/store.db", "experiment")
    assert (tmp_path / "store.db").read_bytes() == before


def test_a_store_whose_making_was_killed_is_made_anew(tmp_path):
    from mnist_search.tracking.setup import Parent, prepare

    file = tmp_path / "mlflow.db"
    (tmp_path / ".mlflow.db.new").write_bytes(b"half of a store")

    prepared = prepare(
        make_tracking_config(f"sqlite:///{file}", "experiment"), Parent("uid", "study", {}), pytest.fail
    )

    assert prepared is not None
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]
