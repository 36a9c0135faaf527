"""Options that several verbs share, and the parsing of their values."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mnist_search.errors import UsageError

if TYPE_CHECKING:
    from mnist_search.tracking.config import TrackingConfig

DEFAULT_STORAGE = "sqlite:///mnist-search.db"
DEFAULT_TRACKING = "sqlite:///mlflow.db"
DEFAULT_EXPERIMENT = "mnist-search"

TRAINING_PANEL, STORAGE_PANEL, STOPPING_PANEL = "Training", "Storage and tracking", "Stop conditions"


class Format(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


FormatOption = Annotated[
    Format, typer.Option("--format", "-f", help="Output format: a table, one JSON document, or CSV.")
]
StorageOption = Annotated[
    str,
    typer.Option(
        "--storage",
        envvar=["MNIST_SEARCH_STORAGE", "OPTUNA_STORAGE"],
        help="Study store: sqlite:///FILE or postgresql://USER@HOST/DATABASE.",
    ),
]
TrackingOption = Annotated[
    str,
    typer.Option(
        "--tracking-uri",
        envvar="MLFLOW_TRACKING_URI",
        help="MLflow tracking URI: sqlite:///FILE or the URL of an MLflow server.",
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="MNIST_SEARCH_DATA",
        help="Folder of the MNIST IDX files, gzipped or not; downloaded into a cache by default.",
        show_default=False,
    ),
]
StudyArgument = Annotated[str, typer.Argument(help="Name of the study.")]

JobsOption = Annotated[
    str,
    typer.Option(
        "--jobs", "-j", help="Concurrent trials: a number, or auto.", rich_help_panel=TRAINING_PANEL
    ),
]
DeviceOption = Annotated[
    Literal["auto", "cuda", "mps", "cpu"],
    typer.Option("--device", help="Device to train on.", rich_help_panel=TRAINING_PANEL),
]
PrecisionOption = Annotated[
    Literal["auto", "bf16", "fp32"],
    typer.Option(
        "--precision",
        help="Precision of training; auto is bf16 where the hardware computes in bf16 natively.",
        rich_help_panel=TRAINING_PANEL,
    ),
]
MlflowOption = Annotated[
    bool, typer.Option("--mlflow/--no-mlflow", help="Log runs to MLflow.", rich_help_panel=STORAGE_PANEL)
]
ExperimentNameOption = Annotated[
    str,
    typer.Option(
        "--mlflow-experiment",
        envvar="MLFLOW_EXPERIMENT_NAME",
        help="Name of the MLflow experiment.",
        rich_help_panel=STORAGE_PANEL,
    ),
]
KeepOption = Annotated[
    int,
    typer.Option(
        "--keep-models",
        min=0,
        help="Keep the weights of this many best networks.",
        rich_help_panel=STORAGE_PANEL,
    ),
]
TimeoutOption = Annotated[
    str | None,
    typer.Option("--timeout", help="Stop after this time, such as 30m.", rich_help_panel=STOPPING_PANEL),
]
TrialTimeoutOption = Annotated[
    str | None,
    typer.Option("--trial-timeout", help="Prune a trial after this time.", rich_help_panel=STOPPING_PANEL),
]
TargetAccuracyOption = Annotated[
    float | None,
    typer.Option(
        "--target-accuracy",
        min=0.0,
        max=1.0,
        help="Stop at this validation accuracy.",
        rich_help_panel=STOPPING_PANEL,
    ),
]
PatienceOption = Annotated[
    int | None,
    typer.Option(
        "--patience",
        min=1,
        help="Stop after this many trials without an improvement.",
        rich_help_panel=STOPPING_PANEL,
    ),
]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(text: str | None, option: str) -> float | None:
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


def parse_bounds(text: str | None, option: str) -> tuple[int, int] | None:
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


def parse_jobs(text: str) -> int | None:
    """A number of worker processes; None for ``auto``.

    Raises:
        UsageError: neither a number nor ``auto``.
    """
    if text == "auto":
        return None
    if not re.fullmatch(r"[1-9]\d{0,2}", text):
        raise UsageError(f"--jobs takes a number from 1 to 999, or auto, not {text!r}")
    return int(text)


def tracking_config(enabled: bool, tracking_uri: str, experiment: str) -> TrackingConfig | None:
    """The tracking configuration of these options; None with ``--no-mlflow``."""
    from mnist_search.tracking.config import make_tracking_config

    return make_tracking_config(tracking_uri, experiment) if enabled else None


def study_name(text: str) -> str:
    """A study name that is safe in paths, URLs and tags.

    Raises:
        UsageError: it is not.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", text):
        raise UsageError(
            f"{text!r} is not a valid study name: use at most 100 letters, digits, dots, dashes and "
            "underscores, and begin with a letter or digit"
        )
    return text
