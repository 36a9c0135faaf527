"""The champion is crowned once a fresh process has proved it, and nothing else ever is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
import urllib.request
from contextlib import contextmanager, suppress

import pytest
import torch
from mlflow.exceptions import MlflowException
from optuna.trial import TrialState
from safetensors.torch import save
from support import free_port

from mnist_search.data.dataset import Digits
from mnist_search.data.mnist import read_test
from mnist_search.errors import MnistSearchError
from mnist_search.evaluation.finals import final_queue_for, finalists
from mnist_search.evaluation.registry import register_champion
from mnist_search.records import FinalResult
from mnist_search.search.study import SearchStudy
from mnist_search.tracking.config import make_tracking_config
from mnist_search.tracking.final_runs import FinalsTracker
from mnist_search.tracking.setup import parent_of, prepare
from mnist_search.training.fit import evaluate
from mnist_search.training.model import build

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    # MLflow's own, of its registry and of its type hints
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),
]


@pytest.fixture
def search_study(store, study_config):
    search_study = SearchStudy.open_or_create(store, "budget-1500", study_config, 1)
    claim = search_study.claim()
    claim.trial.set_user_attr("num_params", 1000)
    curve = [{"epoch": 1, "val_accuracy": 0.9, "val_loss": 0.1}]
    search_study.queue.finish(claim, TrialState.COMPLETE, 0.9, attributes={"curve": curve})
    return search_study


@pytest.fixture
def tracking_config(tmp_path):
    return make_tracking_config(f"sqlite:///{tmp_path}/mlflow.db", "experiment")


def hold_finals(search_study, store, tracking_config, mnist_dir, told=None):
    """Finals of one network with one seed; ``told`` instead of its true test accuracy."""
    record = search_study.record()
    (task,) = finalists(record, top=1, seeds=1)
    network = build(task.architecture, 0)
    judged = evaluate(network, Digits.from_arrays(*read_test(mnist_dir)))
    series = final_queue_for(store, record, [task], again=False)
    series.add([task])
    result = FinalResult(test_accuracy=told or judged.accuracy, test_loss=judged.loss)
    series.finish(series.claim(), result, save(network.state_dict()))
    prepared = prepare(tracking_config, parent_of(record), pytest.fail)
    (training,) = series.trainings()
    series.record_run(training, FinalsTracker(prepared, series.name, pytest.fail).log(task, result))
    return task, judged


def test_a_champion_that_proves_itself_is_crowned_once(search_study, store, tracking_config, mnist_dir):
    from mlflow.tracking import MlflowClient

    task, judged = hold_finals(search_study, store, tracking_config, mnist_dir)
    said = []

    for _ in range(2):
        register_champion(store, search_study.record(), tracking_config, mnist_dir, said.append)

    assert said == ["mnist-search-1500 version 1 is the champion: models:/mnist-search-1500@champion"] * 2
    crowned = MlflowClient(tracking_config.tracking_uri).get_model_version_by_alias(
        "mnist-search-1500", "champion"
    )
    assert crowned.tags["parameters"] == str(task.architecture.num_params())
    assert crowned.tags["test_accuracy"] == str(judged.accuracy)


@contextmanager
def served(tracking_config, model_uri, folder):
    """The address at which ``mlflow models serve`` answers for a model."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", model_uri,
               "--env-manager", "local", "--port", str(port), "--workers", "1"]  # fmt: skip
    # MLflow looks for uvicorn on the path, where an environment that is not activated has none.
    path = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
    environ = os.environ | {"MLFLOW_TRACKING_URI": tracking_config.tracking_uri, "PATH": path}
    with (folder / "serve.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environ, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            assert server.poll() is None, (folder / "serve.log").read_text()
            with suppress(OSError), urllib.request.urlopen(f"{address}/ping") as pong:
                assert pong.status == 200
                break
            time.sleep(0.2)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


def test_the_champion_answers_over_http(search_study, store, tracking_config, mnist_dir, tmp_path):
    task, _ = hold_finals(search_study, store, tracking_config, mnist_dir)
    register_champion(store, search_study.record(), tracking_config, mnist_dir, lambda _: None)
    pixels = Digits.from_arrays(*read_test(mnist_dir)).images[:5].float() / 255
    body = json.dumps({"inputs": pixels.tolist()}).encode()

    with served(tracking_config, "models:/mnist-search-1500@champion", tmp_path) as address:
        request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as run_cli:
            given = torch.tensor(json.load(run_cli)["predictions"])

    with torch.no_grad():
        torch.testing.assert_close(given, build(task.architecture, 0).eval()(pixels), rtol=0, atol=1e-4)


def test_what_is_not_the_network_that_was_judged_is_never_crowned(
    search_study, store, tracking_config, mnist_dir
):
    from mlflow.tracking import MlflowClient

    hold_finals(search_study, store, tracking_config, mnist_dir, told=0.9999)

    with pytest.raises(MnistSearchError, match="is not the network that was judged"):
        register_champion(store, search_study.record(), tracking_config, mnist_dir, pytest.fail)
    with pytest.raises(MlflowException):
        MlflowClient(tracking_config.tracking_uri).get_model_version_by_alias("mnist-search-1500", "champion")


def test_without_finals_nobody_is_crowned(search_study, store, tracking_config, mnist_dir, tmp_path):
    register_champion(store, search_study.record(), tracking_config, mnist_dir, pytest.fail)

    assert not (tmp_path / "mlflow.db").exists()
