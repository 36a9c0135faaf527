"""Results of long measurements, a line of JSON each, so that one that was cut short goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

PartOption: TypeAlias = Annotated[int, typer.Option(min=0, help="Which part, from 0.")]
PartsOption: TypeAlias = Annotated[int, typer.Option(min=1, help="Into how many parts the work is cut.")]
DataOption: TypeAlias = Annotated[
    Path | None, typer.Option("--data-dir", envvar="MNIST_SEARCH_DATA", help="Folder of the MNIST files.")
]
DeviceOption: TypeAlias = Annotated[str, typer.Option(help="auto, cuda, mps or cpu; the same for a file.")]


def read(path: Path) -> list[dict[str, Any]]:
    """Every line; none where there is no file yet."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append(path: Path, line: dict[str, Any]) -> None:
    """One more line."""
    with path.open("a") as lines:
        lines.write(json.dumps(line) + "\n")


def verbs(*commands: Callable[..., None]) -> None:
    """Run a script by the verbs that it has."""
    app = typer.Typer()
    for command in commands:
        app.command()(command)
    app()
