"""Registration of the champion in a real MLflow."""

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

from mnist_search.data.dataset import load_test
from mnist_search.errors import MnistSearchError
from mnist_search.evaluation.finals import final_queue_for, finalists
from mnist_search.evaluation.registry import register_champion
from mnist_search.records import FinalResult
from mnist_search.search.study import SearchStudy
from mnist_search.tracking.config import make_tracking_config
from mnist_search.tracking.final_runs import log_finals
from mnist_search.training.evaluate import evaluate
from mnist_search.training.model import build

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    # MLflow's registry and type hints
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


def finish_finals(search_study, store, tracking_config, mnist_dir, test_accuracy=None):
    """Finals of one network with one seed; ``test_accuracy`` replaces the measured one."""
    record = search_study.record()
    (task,) = finalists(record, top=1, seeds=1)
    network = build(task.architecture, 0)
    measured = evaluate(network, load_test(mnist_dir))
    queue = final_queue_for(store, record, [task], again=False)
    queue.add([task])
    result = FinalResult(test_accuracy=test_accuracy or measured.accuracy, test_loss=measured.loss)
    queue.finish(queue.claim(), result, save(network.state_dict()))
    log_finals(tracking_config, queue, record, pytest.fail)
    return task, measured


def test_verified_champion_is_registered_once(search_study, store, tracking_config, mnist_dir):
    from mlflow.tracking import MlflowClient

    task, measured = finish_finals(search_study, store, tracking_config, mnist_dir)
    messages = []

    for _ in range(2):
        register_champion(store, search_study.record(), tracking_config, mnist_dir, messages.append)

    assert messages == ["registered mnist-search-1500 version 1 as models:/mnist-search-1500@champion"] * 2
    version = MlflowClient(tracking_config.tracking_uri).get_model_version_by_alias(
        "mnist-search-1500", "champion"
    )
    assert version.tags["parameters"] == str(task.architecture.num_params())
    assert version.tags["test_accuracy"] == str(measured.accuracy)


@contextmanager
def served(tracking_config, model_uri, folder):
    """The address of ``mlflow models serve`` for a model."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", model_uri,
               "--env-manager", "local", "--port", str(port), "--workers", "1"]  # fmt: skip
    # MLflow looks for uvicorn on the path, which lacks it unless the environment is activated.
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


def test_registered_champion_is_served_over_http(search_study, store, tracking_config, mnist_dir, tmp_path):
    task, _ = finish_finals(search_study, store, tracking_config, mnist_dir)
    register_champion(store, search_study.record(), tracking_config, mnist_dir, lambda _: None)
    pixels = load_test(mnist_dir).images[:5].float() / 255
    body = json.dumps({"inputs": pixels.tolist()}).encode()

    with served(tracking_config, "models:/mnist-search-1500@champion", tmp_path) as address:
        request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as response:
            logits = torch.tensor(json.load(response)["predictions"])

    with torch.no_grad():
        torch.testing.assert_close(logits, build(task.architecture, 0).eval()(pixels), rtol=0, atol=1e-4)


def test_network_that_differs_from_the_finals_is_not_registered(
    search_study, store, tracking_config, mnist_dir
):
    from mlflow.tracking import MlflowClient

    finish_finals(search_study, store, tracking_config, mnist_dir, test_accuracy=0.9999)

    with pytest.raises(MnistSearchError, match="is not the network that the finals evaluated"):
        register_champion(store, search_study.record(), tracking_config, mnist_dir, pytest.fail)
    with pytest.raises(MlflowException):
        MlflowClient(tracking_config.tracking_uri).get_model_version_by_alias("mnist-search-1500", "champion")


def test_nothing_is_registered_without_finals(search_study, store, tracking_config, mnist_dir, tmp_path):
    register_champion(store, search_study.record(), tracking_config, mnist_dir, pytest.fail)

    assert not (tmp_path / "mlflow.db").exists()
