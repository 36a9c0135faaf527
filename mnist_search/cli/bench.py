"""The verb ``bench``: how fast this machine searches, beside the same work done by hand."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from mnist_search.cli.options import DataOption, Format, FormatOption
from mnist_search.cli.output import print_rows

COLUMNS = ("name", "value", "unit", "min", "median", "max", "note")


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="One round of little work, about a minute.")] = False,
    device: Annotated[Literal["auto", "cuda", "mps", "cpu"], typer.Option(help="Where to train.")] = "auto",
    data_dir: DataOption = None,
    how: FormatOption = Format.TABLE,
) -> None:
    """Measure the speed of training, of the search and of what lies between.

    Ratios compare us with the seeds' own loop (torchvision transforms, DataLoader, fp32) and with
    plain Optuna around it, alternating in one run; keep the machine idle meanwhile.
    """
    from mnist_search.bench.suite import machine, measure  # torch

    rows = []
    with tempfile.TemporaryDirectory(prefix="mnist-search-bench-") as folder:
        for row in measure(data_dir, device, Path(folder), quick=quick):
            typer.echo(f"{row.name:40} {row.value:10.4g} {row.unit}", err=True)
            rows.append(asdict(row))
    typer.echo(", ".join(f"{name} {value}" for name, value in machine(device).items()), err=True)
    print_rows(rows, how, COLUMNS)
