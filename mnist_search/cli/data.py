"""Verbs that make a machine ready: data, init."""

from __future__ import annotations

import typer

from mnist_search.cli.options import (
    DEFAULT_STORAGE,
    DataOption,
    Format,
    FormatOption,
    StorageOption,
)
from mnist_search.cli.output import print_fields


def data(data_dir: DataOption = None, how: FormatOption = Format.TABLE) -> None:
    """Fetch MNIST unless it is there, and check all four files."""
    from mnist_search.training import files  # numpy, only here

    folder = files.find(data_dir)
    files.verify(folder)
    print_fields({"folder": str(folder), "files": len(files.ALL_FILES), "sums": "as they should be"}, how)


def init(storage: StorageOption = DEFAULT_STORAGE, data_dir: DataOption = None) -> None:
    """Make the study store and fetch the data, before several machines begin at once."""
    from mnist_search.study.store import Store  # Optuna
    from mnist_search.training import files

    files.verify(files.find(data_dir), files.TRAIN_FILES)
    typer.echo(f"store ready: {Store.open_or_create(storage)}")
