"""Results of long measurements as JSON lines: an interrupted measurement resumes from its file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, TypeAlias
from zlib import crc32

import optuna
import typer

from mnist_search.training.device import use_one_thread

PartOption: TypeAlias = Annotated[int, typer.Option(min=0, help="Index of this part, from 0.")]
PartsOption: TypeAlias = Annotated[int, typer.Option(min=1, help="Number of parts, one per core.")]
DataOption: TypeAlias = Annotated[
    Path | None, typer.Option("--data-dir", envvar="MNIST_SEARCH_DATA", help="Folder of the MNIST files.")
]
DeviceOption: TypeAlias = Annotated[str, typer.Option(help="auto, cuda, mps or cpu; one device per file.")]

Task: TypeAlias = tuple[dict[str, Any], Callable[[], dict[str, Any]]]
"""The fields that identify a result, and a function that computes the other fields."""


def read(path: Path) -> list[dict[str, Any]]:
    """Every line; an empty list if the file does not exist."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append(path: Path, line: dict[str, Any]) -> None:
    """Append one line."""
    with path.open("a") as lines:
        lines.write(json.dumps(line) + "\n")


def run_part(path: Path, tasks: Iterable[Task], part: int, parts: int) -> None:
    """Run the tasks of one part that the file has no line of, and append their lines.

    The part of a task is a checksum of its key, so that a file which lacks one kind of task is completed by
    all processes. ``tasks`` is iterated after the process was limited to one thread, so it may load data.
    """
    use_one_thread()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    lines = read(path)
    for key, run in tasks:
        if crc32(json.dumps(key).encode()) % parts == part and not any(
            key.items() <= line.items() for line in lines
        ):
            append(path, key | run())


def run_commands(*commands: Callable[..., None]) -> None:
    """Run a script whose subcommands are these functions."""
    app = typer.Typer()
    for command in commands:
        app.command()(command)
    app()
