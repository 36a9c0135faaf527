"""What the verbs that search print at their end: what was found, and the commands that follow."""

from __future__ import annotations

import shlex
import shutil
import textwrap
from collections.abc import Collection
from typing import TYPE_CHECKING

from typer import echo

from mnist_search.cli.output import format_value
from mnist_search.cli.status import study_status
from mnist_search.errors import masked
from mnist_search.process_env import STORAGE

if TYPE_CHECKING:
    from mnist_search.records import StudyRecord
    from mnist_search.tracking.config import TrackingConfig
    from search_space import Architecture

INDENT = 16 * " "

NEXT_VERBS = {
    "finalize": "retrain the best networks and evaluate them on the test set",
    "report": "write the study as one HTML page",
    "export": "write the network as a file",
}
AFTER_FINALS = ("report", "export")
"""The commands that follow on finished finals."""


def has_champion(storage: str, record: StudyRecord) -> bool:
    """Whether finals of the study are finished."""
    from mnist_search.evaluation.champion import final_evaluation
    from mnist_search.storage.database import Store

    return final_evaluation(Store.open(storage), record) is not None


def print_result(record: StudyRecord) -> None:
    """Print what a study has done and the network that it has found."""
    for name, value in study_status(record).items():
        if name != "best":
            echo(f"{name.replace('_', ' '):15} {format_value(name, value)}")
    best, space = record.best, record.config.space
    if best is None:
        return
    from mnist_search.records import percent

    if space.architecture_params.keys() <= best.params.keys():  # an older version had fewer params
        network = space.architecture(best.params)
        echo(f"best network    {network} of trial {best.number}")
        print_legend(network)
    echo(f"accuracy        {percent(best.val_accuracy)} of {record.config.val_images:,} validation images")
    echo(f"parameters      {best.num_params:,} of at most {record.config.budget:,}")


def print_legend(network: Architecture) -> None:
    """Print what the symbols of a network mean."""
    from mnist_search.report.network import notation

    legend = ", ".join(f"{symbol} {meaning}" for symbol, meaning in notation(network))
    width = shutil.get_terminal_size().columns
    echo(textwrap.fill(f"({legend})", width, initial_indent=INDENT, subsequent_indent=INDENT))


def print_next_commands(record: StudyRecord, storage: str, verbs: Collection[str]) -> None:
    """Print the commands that follow on a search or on its finals, on stderr."""
    is_default = storage == STORAGE.value
    study = record.name if is_default else f"{record.name} --storage {shlex.quote(masked(storage))}"
    if "finalize" in verbs and len(record.done) >= record.n_trials:
        echo(f"the study is complete; add trials with: mnist-search resume {study} --trials +10", err=True)
    if record.best is not None:
        for verb in verbs:
            echo(f"{NEXT_VERBS[verb]} with: mnist-search {verb} {study}", err=True)


def print_link(study: str, storage: str, mlflow: TrackingConfig) -> None:
    """Print how to open the runs of a study in MLflow, on stderr."""
    from mnist_search.cli.links import local_server, study_links
    from mnist_search.tracking.config import local_file

    is_local = local_file(mlflow.tracking_uri) is not None
    server = local_server() if is_local else mlflow.tracking_uri
    link = study_links(storage, mlflow.tracking_uri, server).get(study)
    if is_local and link is not None:
        echo("compare runs with: mnist-search ui", err=True)
    if link is not None and server.startswith("http"):
        echo(f"runs in MLflow: {link}", err=True)
