"""Options that several verbs share, and the parsing of their values."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from mnist_search.errors import UsageError
from mnist_search.process_env import DATA, EXPERIMENT, STORAGE, TRACKING

if TYPE_CHECKING:
    from mnist_search.tracking.config import TrackingConfig

DEFAULT_STORAGE, DEFAULT_TRACKING, DEFAULT_EXPERIMENT = STORAGE.default, TRACKING.default, EXPERIMENT.default

Format: TypeAlias = Literal["table", "json", "csv"]

training = partial(typer.Option, rich_help_panel="Training")
storage = partial(typer.Option, rich_help_panel="Storage and tracking")
stopping = partial(typer.Option, rich_help_panel="Stop conditions")


def stored(default: str, *names: str, **settings: Any) -> Any:
    """An option that takes the value of the stored study, or ``default`` in a new one."""
    return typer.Option(*names, show_default=default, **settings)


StudyArgument = Annotated[str, typer.Argument(help="Name of the study.")]
FormatOption = Annotated[
    Format, typer.Option("--format", "-f", help="Output format: a table, one JSON document, or CSV.")
]
StorageOption = Annotated[
    str,
    typer.Option(
        "--storage",
        envvar=list(STORAGE.variables),
        help="Study store: sqlite:///FILE or postgresql://USER@HOST/DATABASE.",
    ),
]
TrackingOption = Annotated[
    str,
    typer.Option(
        "--tracking-uri",
        envvar=list(TRACKING.variables),
        help="MLflow tracking URI: sqlite:///FILE or the URL of an MLflow server.",
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar=list(DATA.variables),
        help="Folder of the MNIST IDX files, gzipped or not; downloaded into a cache by default.",
        show_default=False,
    ),
]
DepthOption = Annotated[
    str | None, stored("3:7", "--depth", help="Minimum and maximum number of blocks, LOW:HIGH.")
]
WidthOption = Annotated[
    str | None, stored("by budget", "--width", help="Minimum and maximum number of channels, LOW:HIGH.")
]
JobsOption = Annotated[str, training("--jobs", "-j", help="Concurrent trials: a number, or auto.")]
DeviceOption = Annotated[
    Literal["auto", "cuda", "mps", "cpu"], training("--device", help="Device to train on.")
]
PrecisionOption = Annotated[
    Literal["auto", "bf16", "fp32"],
    training(
        "--precision",
        help="Precision of training; auto is bf16 where the hardware computes in bf16 natively.",
    ),
]
MlflowOption = Annotated[bool, storage("--mlflow/--no-mlflow", help="Log runs to MLflow.")]
ExperimentNameOption = Annotated[
    str,
    storage("--mlflow-experiment", envvar=list(EXPERIMENT.variables), help="Name of the MLflow experiment."),
]
KeepOption = Annotated[
    int, storage("--keep-models", min=0, help="Keep the weights of this many best networks.")
]
TimeoutOption = Annotated[str | None, stopping("--timeout", help="Stop after this time, such as 30m.")]
TrialTimeoutOption = Annotated[str | None, stopping("--trial-timeout", help="Prune a trial after this time.")]
TargetAccuracyOption = Annotated[
    float | None, stopping("--target-accuracy", min=0.0, max=1.0, help="Stop at this validation accuracy.")
]
PatienceOption = Annotated[
    int | None, stopping("--patience", min=1, help="Stop after this many trials without an improvement.")
]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(text: str | None, option: str) -> float | None:
    """A duration such as ``90``, ``30m`` or ``1h30m`` in seconds; UsageError if it is not above zero."""
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
    """``LOW:HIGH`` as a pair; UsageError if it is not two numbers."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,6}):(\d{1,6})", text)
    if not match:
        raise UsageError(f"{option} takes LOW:HIGH, such as 4:30, not {text!r}")
    return int(match[1]), int(match[2])


def parse_jobs(text: str) -> int | None:
    """A number of worker processes; None for ``auto``, UsageError for any other text."""
    if text == "auto":
        return None
    if not re.fullmatch(r"[1-9]\d{0,2}", text):
        raise UsageError(f"--jobs takes a number from 1 to 999, or auto, not {text!r}")
    return int(text)


def tracking_config(enabled: bool, tracking_uri: str, experiment: str) -> TrackingConfig | None:
    """The tracking configuration of these options; None with ``--no-mlflow``."""
    from mnist_search.tracking.config import make_tracking_config

    return make_tracking_config(tracking_uri, experiment) if enabled else None
