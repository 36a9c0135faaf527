"""Registration of the champion in a real MLflow."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import urllib.request
from contextlib import contextmanager, suppress

import pytest
import torch
from finished import complete_trial, finish_final, finish_finals, open_finals
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from safetensors.torch import save
from support import free_port
from tracked_trials import runs_in

from mnist_search.data.dataset import load_test
from mnist_search.errors import MnistSearchError, Unavailable
from mnist_search.evaluation.champion import final_evaluation
from mnist_search.evaluation.finals import finalists, next_tasks
from mnist_search.evaluation.registry import register_champion
from mnist_search.search.study import SearchStudy
from mnist_search.storage.tracked import TrackedStudy
from mnist_search.tracking.config import make_tracking_config
from mnist_search.tracking.models import log_pt2
from mnist_search.tracking.runs import Tracking
from mnist_search.tracking.sync import StudySync
from mnist_search.training.evaluate import evaluate
from mnist_search.training.model import build, load_network

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    # MLflow's registry and type hints
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),
]


@pytest.fixture
def search_study(store, study_config):
    search_study = SearchStudy.open_or_create(store, "budget-1500", study_config, 1)
    complete_trial(search_study, 0.9)
    return search_study


@pytest.fixture
def tracking_config(empty_database, tmp_path):
    shutil.copy(empty_database, tmp_path)
    return make_tracking_config(f"sqlite:///{tmp_path}/mlflow.db", "experiment")


def finish_one_final(search_study, store, mnist_dir, test_accuracy=None):
    """Finals of one network with one seed; ``test_accuracy`` replaces the measured one."""
    record = search_study.record()
    network = build(record.config.space.decode(record.best.params).architecture, 0)
    accuracy = evaluate(network, load_test(mnist_dir)).accuracy
    finals = finish_finals(
        store, record, [test_accuracy or accuracy], top=1, seeds=1,
        weights=lambda _task: save(network.state_dict()),
    )  # fmt: skip
    return finals.record().trials[0].task, accuracy


@pytest.fixture
def register(search_study, store, tracking_config, mnist_dir):
    """Register the champion; the messages."""

    def call():
        messages = []
        register_champion(store, search_study.record(), tracking_config, mnist_dir, messages.append)
        return messages

    return call


@pytest.fixture
def client(tracking_config):
    return MlflowClient(tracking_config.tracking_uri)


def champion_of(client):
    return client.get_model_version_by_alias("mnist-search-1500", "champion")


def logged_models(client):
    return client.search_logged_models([client.get_experiment_by_name("experiment").experiment_id])


CHAMPION_LINES = """\
writing the finals and the champion to MLflow
mnist-search-1500 version 1 is the champion: trial 0, the finalist with the best mean validation accuracy; \
load it from models:/mnist-search-1500@champion""".splitlines()


def test_verified_champion_is_registered_once(search_study, store, register, client, mnist_dir):
    task, accuracy = finish_one_final(search_study, store, mnist_dir)

    for _ in range(2):
        assert register() == CHAMPION_LINES

    version = champion_of(client)
    assert version.tags["parameters"] == str(task.architecture.num_params())
    assert version.tags["test_accuracy"] == version.tags["test_accuracy_mean"] == str(accuracy)
    assert len(client.search_model_versions("name = 'mnist-search-1500'")) == 1
    (parent,) = runs_in(client, "study")
    assert parent.data.tags["champion"].startswith("trial 0: ")
    assert [str(model.status) for model in logged_models(client)] == ["READY"]


def test_added_seeds_change_the_mean_of_the_registered_version(
    search_study, store, register, client, mnist_dir
):
    _, accuracy = finish_one_final(search_study, store, mnist_dir)
    register()
    record = search_study.record()
    finals = open_finals(store, record)
    finals.add(next_tasks(record, finalists(record, 1), [], number=1, seeds=2, evaluate_all=False))
    finish_final(finals, accuracy - 0.01)

    assert register() == CHAMPION_LINES

    tags = champion_of(client).tags
    assert (tags["n_seeds"], float(tags["test_accuracy_mean"])) == ("2", pytest.approx(accuracy - 0.005))
    (parent,) = runs_in(client, "study")
    assert parent.data.tags["champion"].endswith("mean of 2 seeds")
    assert parent.data.tags["champion"] in parent.data.tags["mlflow.note.content"]


def test_deleted_alias_is_set_again(search_study, store, register, client, mnist_dir):
    finish_one_final(search_study, store, mnist_dir)
    register()
    client.delete_registered_model_alias("mnist-search-1500", "champion")

    assert register() == CHAMPION_LINES

    assert champion_of(client).version in {1, "1"}


def test_deleted_version_is_registered_again(search_study, store, register, client, mnist_dir):
    finish_one_final(search_study, store, mnist_dir)
    register()
    client.delete_registered_model("mnist-search-1500")

    assert register() == CHAMPION_LINES

    assert len(logged_models(client)) == 1


def test_incomplete_model_of_an_earlier_attempt_is_replaced(
    search_study, store, register, client, tracking_config, mnist_dir
):
    finish_one_final(search_study, store, mnist_dir)
    run_id, experiment_id = synced_run(store, tracking_config, mnist_dir)
    pending = client.create_logged_model(experiment_id, name="mnist-search-1500", source_run_id=run_id)

    register()

    (model,) = logged_models(client)
    assert model.model_id != pending.model_id
    assert str(model.status) == "READY"


def test_complete_model_of_an_earlier_attempt_is_adopted(
    search_study, store, register, client, tracking_config, mnist_dir
):
    task, _ = finish_one_final(search_study, store, mnist_dir)
    run_id, experiment_id = synced_run(store, tracking_config, mnist_dir)
    record = search_study.record()
    weights = final_evaluation(store, record).weights(store)
    network, tracking = load_network(task.architecture, weights), Tracking(client, experiment_id, "")
    tags = {"study": record.name}
    model_id = log_pt2(
        tracking, run_id, network, load_test(mnist_dir), name="mnist-search-1500", step=1, tags=tags
    )

    register()

    assert [model.model_id for model in logged_models(client)] == [model_id]
    assert champion_of(client).source == f"models:/{model_id}"


def test_interrupted_registration_prints_how_to_continue(
    search_study, store, register, client, tracking_config, mnist_dir, tmp_path
):
    finish_one_final(search_study, store, mnist_dir)
    arguments = [
        "finalize", "budget-1500", "--top", "1", "--seeds", "1", "--device", "cpu", "--storage", store.url,
        "--tracking-uri", tracking_config.tracking_uri, "--mlflow-experiment", "experiment",
        "--data-dir", str(mnist_dir),
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "mnist_search", *arguments],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not client.get_experiment_by_name("experiment") or not logged_models(client):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)

    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 130, err
    assert "trial 0" in out
    assert err.splitlines()[-1] == f"stopped: SIGINT; continue with: mnist-search {' '.join(arguments)}"
    assert register() == CHAMPION_LINES


def synced_run(store, tracking_config, mnist_dir):
    """Run of the only final, and its experiment."""
    study = TrackedStudy(store, "budget-1500.finals")
    StudySync(study, tracking_config, mnist_dir, pytest.fail).sync("FINISHED")
    (trial,) = study.record().trials
    return trial.run_id, study.location(tracking_config.tracking_uri).experiment_id


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


def test_registered_champion_is_served_over_http(
    search_study, store, register, tracking_config, mnist_dir, tmp_path
):
    task, _ = finish_one_final(search_study, store, mnist_dir)
    register()
    pixels = load_test(mnist_dir).images[:5].float() / 255
    body = json.dumps({"inputs": pixels.tolist()}).encode()

    with served(tracking_config, "models:/mnist-search-1500@champion", tmp_path) as address:
        request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as response:
            logits = torch.tensor(json.load(response)["predictions"])

    with torch.no_grad():
        torch.testing.assert_close(logits, build(task.architecture, 0).eval()(pixels), rtol=0, atol=1e-4)


def test_network_that_differs_from_the_finals_is_not_registered(
    search_study, store, register, client, mnist_dir
):
    finish_one_final(search_study, store, mnist_dir, test_accuracy=0.9999)

    with pytest.raises(MnistSearchError, match="is not the network that the finals evaluated"):
        register()
    with pytest.raises(MlflowException):
        champion_of(client)


def test_nothing_is_registered_without_finals(register, client):
    assert register() == []

    assert client.get_experiment_by_name("experiment") is None


def test_champion_is_not_registered_while_mlflow_is_unavailable(search_study, store, mnist_dir):
    finish_one_final(search_study, store, mnist_dir)
    unreachable = make_tracking_config("http://127.0.0.1:9", "experiment")

    with pytest.raises(Unavailable, match="the finals are done, but the champion is not registered"):
        register_champion(store, search_study.record(), unreachable, mnist_dir, lambda _: None)
