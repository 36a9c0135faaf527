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
    from mnist_search.data import mnist  # numpy, only here

    folder = mnist.find(data_dir)
    mnist.verify(folder)
    print_fields({"folder": str(folder), "files": len(mnist.ALL_FILES), "sums": "as they should be"}, how)


def init(storage: StorageOption = DEFAULT_STORAGE, data_dir: DataOption = None) -> None:
    """Make the study store and fetch the data, before several machines begin at once."""
    from mnist_search.data import mnist
    from mnist_search.storage.database import Store  # Optuna

    mnist.verify(mnist.find(data_dir), mnist.TRAIN_FILES)
    typer.echo(f"store ready: {Store.open_or_create(storage)}")
