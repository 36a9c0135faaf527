"""Verbs that prepare a machine, show the runs and measure speed: data, init, ui, bench."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from typer import echo

from mnist_search.cli import options as opt
from mnist_search.cli.options import option
from mnist_search.cli.output import print_fields, print_rows
from mnist_search.errors import NotFound, UsageError


def data(data_dir: opt.DataOption = None, output_format: opt.FormatOption = "table") -> None:
    """Download MNIST if it is missing, and verify the checksums of its four files."""
    from mnist_search.data import mnist

    folder = mnist.resolve_data_dir(data_dir)
    mnist.verify(folder)
    print_fields({"folder": str(folder), "files": len(mnist.ALL_FILES), "checksums": "ok"}, output_format)


def init(storage: opt.StorageOption = opt.DEFAULT_STORAGE, data_dir: opt.DataOption = None) -> None:
    """Create the study store and download the data, before several machines start."""
    from mnist_search.data import mnist
    from mnist_search.storage.database import Store

    mnist.verify(mnist.resolve_data_dir(data_dir), mnist.TRAIN_FILES)
    echo(f"store ready: {Store.open_or_create(storage)}")


def ui(
    port: Annotated[int, option("Port to listen on.", min=1, max=65535)] = 5000,
    storage: opt.StorageOption = opt.DEFAULT_STORAGE,
    tracking_uri: opt.TrackingOption = opt.DEFAULT_TRACKING,
) -> None:
    """Serve the MLflow UI on localhost."""
    from mnist_search.tracking.config import local_file, make_tracking_config

    config = make_tracking_config(tracking_uri, "")
    uri, path = config.tracking_uri, local_file(config.tracking_uri)
    if path is None or config.artifact_root is None:
        raise UsageError(f"the runs are on a server: open {uri} in a browser")
    if not path.exists():
        raise NotFound(f"no MLflow database {path}; mnist-search run creates it")
    echo(f"MLflow:           http://127.0.0.1:{port}", err=True)
    echo(f"Optuna dashboard: pip install optuna-dashboard && optuna-dashboard {storage}", err=True)
    hosts = f"localhost:{port},127.0.0.1:{port}"
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", uri, "--artifacts-destination", config.artifact_root),
        *("--workers", "1", "--allowed-hosts", hosts),
    ]
    sys.stderr.flush()
    os.execv(sys.executable, command)  # noqa: S606 - signals must reach the server itself


def bench(
    quick: Annotated[bool, option("One round of a small workload, about a minute.", "--quick")] = False,
    device: opt.DeviceOption = "auto",
    data_dir: opt.DataOption = None,
    output_format: opt.FormatOption = "table",
) -> None:
    """Measure the speed of training and of search, and their overhead.

    Ratios compare with the training loop of the baselines (torchvision transforms, DataLoader, fp32)
    and with plain Optuna around that loop, alternating in one run. Run it on an idle machine.
    """
    from mnist_search.bench.suite import describe_machine, measure

    results = []
    with tempfile.TemporaryDirectory(prefix="mnist-search-bench-") as folder:
        for result in measure(data_dir, device, Path(folder), quick=quick):
            echo(f"{result.name:40} {result.median:10.4g} {result.unit}", err=True)
            results.append(asdict(result))
    echo(describe_machine(device), err=True)
    print_rows(results, output_format, ("name", "median", "unit", "min", "max", "note"))
