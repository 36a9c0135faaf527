"""Helpers that several test modules use."""

from __future__ import annotations

import hashlib
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from optuna.storages import RDBStorage

from mnist_search.data.dataset import Split
from search_space.training_config import SGD, Adam

ROOT = Path(__file__).parents[1]
"""The repository."""

OPTIMIZERS = [
    SGD(0.05),
    SGD(0.1, weight_decay=1e-3, nesterov=True),
    Adam(0.01, weight_decay=1e-3),
    Adam(0.01, weight_decay=0.05, decoupled=True),
]
"""Every combination of options that changes an update."""


MLFLOW_WARNINGS = pytest.mark.filterwarnings(
    "ignore::sqlalchemy.exc.SADeprecationWarning",  # MLflow 3.17 on SQLAlchemy 2.1
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::UserWarning",
)


UNNAMED_USER = ["unshare", "--user", "--map-user=10001", "--map-group=10001"]
"""Runs a command under a uid without a name and without the rights of root."""


def has_user_namespaces():
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNNAMED_USER, "true"], capture_output=True, check=False).returncode == 0


needs_user_namespaces = pytest.mark.skipif(
    not has_user_namespaces(), reason="needs user namespaces (unshare), to run as another user"
)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def mlflow_server(folder, port):
    """A real MLflow server with its database and artifacts in ``folder``."""
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/server.db",
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=folder)
    try:
        for _ in range(480):
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


def make_split(digits, train, val, seed):
    """Split some digits as ``load_split`` splits all of them."""
    return Split.of(digits, train, val, seed)


def text_file(path):
    path.write_text("shopping list")


def empty_file(path):
    path.touch()


def folder(path):
    path.mkdir()


def mlflow_database(path):
    with sqlite3.connect(path) as database:
        database.executescript("CREATE TABLE runs (x); CREATE TABLE alembic_version (version_num)")


def other_database(path):
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE recipes (x)")


def newer_schema(path):
    RDBStorage(f"sqlite:///{path}").engine.dispose()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE alembic_version SET version_num = 'v99.0.0.a'")


def older_schema(path):
    RDBStorage(f"sqlite:///{path}").engine.dispose()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE alembic_version SET version_num = 'v3.0.0.a'")


def truncated_database(path):
    RDBStorage(f"sqlite:///{path}").engine.dispose()
    path.write_bytes(path.read_bytes()[:5000])


def digest(folder: Path) -> dict[str, str]:
    """SHA-256 sums of the files below a folder, without the lock files, which are empty."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock")
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
