"""Verbs that prepare a machine, show the runs and measure speed: data, init, ui, bench."""

from __future__ import annotations

import os
import shlex
import socket
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from typer import Argument, echo

from mnist_search.cli import completion
from mnist_search.cli import options as opt
from mnist_search.cli.links import DEFAULT_PORT, local_server, study_links
from mnist_search.cli.options import option
from mnist_search.cli.output import print_fields, print_rows
from mnist_search.errors import MnistSearchError, NotFound, UsageError, masked
from mnist_search.process_env import usable_cores

MAX_LINKS = 5
"""Studies whose links ``ui`` prints."""


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
    study: Annotated[
        str | None,
        Argument(
            help="Study whose link is printed.",
            show_default=f"the {MAX_LINKS} latest",
            autocompletion=completion.study,
        ),
    ] = None,
    *,
    port: Annotated[int, option("Port to listen on.", min=1, max=65535)] = DEFAULT_PORT,
    storage: opt.StorageOption = opt.DEFAULT_STORAGE,
    tracking_uri: opt.TrackingOption = opt.DEFAULT_TRACKING,
) -> None:
    """Serve the MLflow UI on localhost, and print links to the runs of a study, or of the latest ones.

    A link opens the runs of one study, the most accurate first; with &compareRunsMode=CHART at its
    end, their charts.
    """
    from mnist_search.tracking.config import local_file, make_tracking_config

    config = make_tracking_config(tracking_uri, "")
    uri, path = config.tracking_uri, local_file(config.tracking_uri)
    if path is None or config.artifact_root is None:
        raise UsageError(f"the runs are on a server: open {uri} in a browser")
    if not path.exists():
        raise NotFound(f"no MLflow database {path}; mnist-search run creates it")
    _check_port(port)
    links = study_links(storage, uri, local_server(port))
    if study is not None and study not in links:
        raise NotFound(f"study {study!r} is not in {masked(uri)}; mnist-search studies lists the studies")
    shown = list(links)[-MAX_LINKS:] if study is None else [study]
    echo(f"MLflow: {local_server(port)}", err=True)
    for name in shown:
        echo(f"runs of {name}: {links[name]}", err=True)
    echo(
        f"Optuna dashboard: pip install optuna-dashboard && optuna-dashboard {shlex.quote(masked(storage))}",
        err=True,
    )
    hosts = f"localhost:{port},127.0.0.1:{port}"
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", uri, "--artifacts-destination", config.artifact_root),
        *("--workers", "1", "--allowed-hosts", hosts, "--uvicorn-opts", "--log-level warning"),
    ]
    sys.stderr.flush()
    quiet = {"MLFLOW_LOGGING_LEVEL": "WARNING", "PYTHONWARNINGS": "ignore"}  # the links stay visible
    os.execve(sys.executable, command, quiet | os.environ)  # noqa: S606 - signals must reach the server


def _check_port(port: int) -> None:
    """Raise MnistSearchError if another program listens on the port, or this user may not use it."""
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # else a closed connection blocks the port
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise MnistSearchError(
                f"cannot listen on port {port}: {error.strerror}; choose another with --port"
            ) from error


def bench(
    quick: Annotated[
        bool,
        option(
            "One round of a small workload: about a minute on two idle cores, minutes on a busy machine.",
            "--quick",
        ),
    ] = False,
    device: opt.DeviceOption = "auto",
    data_dir: opt.DataOption = None,
    output_format: opt.FormatOption = "table",
) -> None:
    """Measure the speed of training and of search, and their overhead.

    Ratios compare with the training loop of the baselines (torchvision transforms, DataLoader, fp32)
    and with plain Optuna around that loop, alternating in one run. Run it on an idle machine.
    """
    from mnist_search.bench.suite import busy_warning, describe_machine, measure

    if warning := busy_warning(os.getloadavg()[0], usable_cores()):
        echo(warning, err=True)
    results = []
    with tempfile.TemporaryDirectory(prefix="mnist-search-bench-") as folder:
        for result in measure(data_dir, device, Path(folder), quick=quick):
            echo(f"{result.name:40} {result.median:10.4g} {result.unit}", err=True)
            results.append(asdict(result))
    echo(describe_machine(device), err=True)
    print_rows(results, output_format, ("name", "median", "unit", "note", "min", "max"))
