"""Verbs that copy a study to another store and back up a store: copy, backup."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

from typer import Argument, echo

from mnist_search.cli import options as opt
from mnist_search.cli.options import option
from mnist_search.errors import masked


def copy(
    study: opt.StudyArgument,
    *,
    to: Annotated[
        str, option("Store to copy it to: sqlite:///FILE or postgresql://USER@HOST/DATABASE.", "--to")
    ],
    storage: opt.StorageOption = opt.DEFAULT_STORAGE,
) -> None:
    """Copy a study with its finals to another store, such as PostgreSQL for several machines."""
    from mnist_search.search.study import quiet_optuna
    from mnist_search.storage.copying import copy_studies
    from mnist_search.storage.database import Store
    from mnist_search.storage.deletion import with_finals

    with quiet_optuna():
        source = Store.open(storage, write=True)
        studies = with_finals(source, study)
        target = Store.open_or_create(to)
        copied = copy_studies(source, target, studies)
    where = f"--storage {shlex.quote(masked(to))}"
    if not copied:
        echo(f"{target} has study {study} already, with the same trials")
        return
    for each in copied:
        echo(f"copied {each.study_name} ({len(each.trials)} trials)")
    echo(f"continue it there, and only there: mnist-search resume {study} {where}", err=True)


def backup(
    file: Annotated[Path, Argument(help="New file to write.")],
    storage: opt.StorageOption = opt.DEFAULT_STORAGE,
) -> None:
    """Write a consistent copy of a SQLite store, also while a search runs."""
    from mnist_search.storage.backup import back_up
    from mnist_search.storage.database import Store

    back_up(Store.open(storage), file)
    echo(file)
