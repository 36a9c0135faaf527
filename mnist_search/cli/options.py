"""Options that several verbs share, and the reading of their values."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mnist_search.errors import UsageError

DEFAULT_STORAGE = "sqlite:///mnist-search.db"
DEFAULT_TRACKING = "sqlite:///mlflow.db"


class Format(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


FormatOption = Annotated[
    Format, typer.Option("--format", "-f", help="How to print: a table, one JSON document, or CSV.")
]
StorageOption = Annotated[
    str,
    typer.Option(
        "--storage",
        envvar=["MNIST_SEARCH_STORAGE", "OPTUNA_STORAGE"],
        help="Database of the studies: sqlite:///FILE or postgresql://USER@HOST/DATABASE.",
    ),
]
TrackingOption = Annotated[
    str,
    typer.Option(
        "--tracking-uri",
        envvar="MLFLOW_TRACKING_URI",
        help="Where MLflow keeps runs: sqlite:///FILE or the URL of an MLflow server.",
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="MNIST_SEARCH_DATA",
        help="Folder of the MNIST IDX files, gzipped or not; fetched into a cache by default.",
        show_default=False,
    ),
]
StudyArgument = Annotated[str, typer.Argument(help="Name of the study.")]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str | None, option: str) -> float | None:
    """A duration such as ``90``, ``30m`` or ``1h30m`` in seconds.

    Raises:
        UsageError: not a duration above zero.
    """
    if text is None:
        return None
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if "".join(number + unit for number, unit in parts) != text or not parts:
        raise UsageError(f"{option} takes a duration such as 90s, 30m or 1h30m, not {text!r}")
    total = sum(float(number) * _UNITS[unit or "s"] for number, unit in parts)
    if total <= 0:
        raise UsageError(f"{option} takes a duration above zero, not {text!r}")
    return total


def bounds(text: str | None, option: str) -> tuple[int, int] | None:
    """``LOW:HIGH`` as a pair.

    Raises:
        UsageError: not two numbers.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,6}):(\d{1,6})", text)
    if not match:
        raise UsageError(f"{option} takes LOW:HIGH, such as 4:30, not {text!r}")
    return int(match[1]), int(match[2])


def study_name(text: str) -> str:
    """A name that is safe in paths, URLs and tags.

    Raises:
        UsageError: it is not.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", text):
        raise UsageError(
            f"{text!r} is no name for a study: letters, digits, dots, dashes and underscores, "
            "a letter or digit first, 100 at most"
        )
    return text
