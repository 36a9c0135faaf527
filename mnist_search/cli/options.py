"""Options that several verbs share, and the parsing of their values."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from typer import Argument, Option

from mnist_search.cli import completion
from mnist_search.errors import UsageError
from mnist_search.process_env import DATA, EXPERIMENT, STORAGE, TRACKING, Setting

if TYPE_CHECKING:
    from mnist_search.execution.config import RunConfig
    from mnist_search.execution.run_study import ReporterFactory
    from mnist_search.tracking.config import TrackingConfig

DEFAULT_STORAGE, DEFAULT_TRACKING = STORAGE.default, TRACKING.default

Format: TypeAlias = Literal["table", "json", "csv"]


def metavar(choices: Iterable[str]) -> str:
    """Choices as ``--help`` shows them; a narrow terminal wraps them at the spaces."""
    return f"<{' | '.join(choices)}>"


def option(
    text: str, *names: str, setting: Setting | None = None, choices: Sequence[str] = (), **settings: Any
) -> Any:
    """An option with a help text, the environment variables of ``setting``, and choices to show and complete.

    The verb checks a value of ``choices``, with a better message than Typer's.
    """
    if choices:
        settings |= {"metavar": metavar(choices), "autocompletion": completion.one_of(*choices)}
    return Option(*names, help=text, envvar=list(setting.variables) if setting else None, **settings)


training = partial(option, rich_help_panel="Training")
stopping = partial(option, rich_help_panel="Stop conditions")
logging = partial(option, rich_help_panel="Storage and tracking")


def stored(default: str, text: str, *names: str, **settings: Any) -> Any:
    """An option that takes the value of the stored study, or ``default`` in a new one."""
    return option(text, *names, show_default=default, **settings)


StudyArgument = Annotated[str, Argument(help="Name of the study.", autocompletion=completion.study)]
LatestStudyArgument = Annotated[
    str | None,
    Argument(help="Name of the study.", show_default="the latest", autocompletion=completion.study),
]
FormatOption = Annotated[
    Format, option("Output format: a table, one JSON document, or CSV.", "--format", "-f")
]
StorageOption = Annotated[
    str, option("Study store: sqlite:///FILE or postgresql://USER@HOST/DATABASE.", setting=STORAGE)
]
TrackingOption = Annotated[
    str, option("MLflow tracking URI: sqlite:///FILE or the URL of an MLflow server.", setting=TRACKING)
]
DATA_HELP = "Folder of the MNIST IDX files, gzipped or not; downloaded into a cache by default."
DataOption = Annotated[Path | None, option(DATA_HELP, setting=DATA, show_default=False)]
DepthOption = Annotated[str | None, stored("3:7", "Minimum and maximum number of blocks, LOW:HIGH.")]
WidthOption = Annotated[str | None, stored("by budget", "Minimum and maximum number of channels, LOW:HIGH.")]
PARAM_HELP = (
    "Search a part of the space: NAME=VALUE fixes a param, NAME=LOW:HIGH bounds a number, "
    "NAME=CHOICE,CHOICE names choices; repeatable. mnist-search space lists the params."
)
ParamOption = Annotated[
    list[str] | None,
    stored("none", PARAM_HELP, "--param", "-p", metavar="NAME=...", autocompletion=completion.param),
]
SPACE_HELP = "TOML file with ranges of params, as mnist-search space --toml prints it; --param overrides it."
SpaceOption = Annotated[Path | None, stored("none", SPACE_HELP, "--space")]
DeviceOption = Annotated[
    str, training("cuda is every GPU; name some as cuda:0,cuda:2.", "--device", choices=completion.DEVICES)
]


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Options of the verbs that show what a store has."""

    output_format: FormatOption = "table"
    storage: StorageOption = DEFAULT_STORAGE


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """Options of the verbs that train."""

    jobs: Annotated[
        str, training("Concurrent trials, per GPU if there are any: a number, or auto.", "--jobs", "-j")
    ] = "auto"
    device: DeviceOption = "auto"
    precision: Annotated[
        Literal["auto", "bf16", "fp32"],
        training("Precision of training; auto is bf16 where the hardware computes in bf16 natively."),
    ] = "auto"
    engine: Annotated[
        Literal["processes", "ray"],
        training(
            "What starts the workers: processes of this machine, or Ray, on all nodes of a cluster.",
            metavar=metavar(("processes", "ray")),
        ),
    ] = "processes"
    address: Annotated[
        str | None,
        training("Ray cluster: auto, or HOST:PORT; a local one by default.", metavar="auto|HOST:PORT"),
    ] = None
    timeout: Annotated[str | None, stopping("Stop after this time, such as 30m.")] = None
    finish_running: Annotated[
        bool,
        stopping(
            "At Ctrl-C, start no new trial and train the running ones to their end; a second Ctrl-C "
            "releases them.",
            "--finish-running",
        ),
    ] = False
    progress: Annotated[
        Literal["auto", "live", "plain", "none"],
        option(
            "Progress on stderr: a live table, lines, or messages only; auto is live on a terminal.",
            metavar=metavar(("auto", "live", "plain", "none")),
        ),
    ] = "auto"
    quiet: Annotated[
        bool, option("Print results, warnings and errors only; implies --progress none.", "--quiet", "-q")
    ] = False

    def reporter(self) -> ReporterFactory:
        """Makes the display of the progress."""
        from mnist_search.execution.progress import make_reporter

        return partial(make_reporter, mode="none" if self.quiet else self.progress)


@dataclass(frozen=True, kw_only=True)
class SearchOptions(WorkerOptions):
    """Options of the verbs that search."""

    trial_timeout: Annotated[str | None, stopping("Prune a trial after this time.")] = None
    target_accuracy: Annotated[
        float | None, stopping("Stop at this validation accuracy.", min=0.0, max=1.0)
    ] = None
    patience: Annotated[
        int | None, stopping("Stop after this many trials without an improvement.", min=1)
    ] = None
    keep_models: Annotated[int, logging("Keep the weights of this many best networks.", min=0)] = 5


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """Options of the verbs that write to a store and to MLflow."""

    storage: StorageOption = DEFAULT_STORAGE
    tracking_uri: TrackingOption = DEFAULT_TRACKING
    mlflow: Annotated[bool, logging("Log runs to MLflow.")] = True
    mlflow_experiment: Annotated[str, logging("Name of the MLflow experiment.", setting=EXPERIMENT)] = (
        EXPERIMENT.default
    )
    data_dir: DataOption = None

    def tracking(self) -> TrackingConfig | None:
        """Where runs are logged; None with ``--no-mlflow``."""
        from mnist_search.tracking.config import make_tracking_config

        return make_tracking_config(self.tracking_uri, self.mlflow_experiment) if self.mlflow else None


def run_config(study: str, workers: WorkerOptions, stores: StoreOptions, **arguments: Any) -> RunConfig:
    """The RunConfig of these options and of further arguments."""
    from mnist_search.execution.config import RunConfig

    return RunConfig(
        study=study,
        jobs=parse_jobs(workers.jobs),
        device=workers.device,
        precision=workers.precision,
        engine=workers.engine,
        address=workers.address,
        finish_running=workers.finish_running,
        storage=stores.storage,
        mlflow=stores.tracking(),
        data_dir=stores.data_dir,
        **arguments,
    )


def expand_groups(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb for Typer, which sees an option per field in place of a parameter of a dataclass type."""
    given = inspect.signature(verb, eval_str=True).parameters
    groups: dict[str, Any] = {name: p.annotation for name, p in given.items() if is_dataclass(p.annotation)}

    @wraps(verb)
    def command(**options: Any) -> None:
        for name, group in groups.items():
            options[name] = group(**{field.name: options.pop(field.name) for field in fields(group)})
        verb(**options)

    shown: list[inspect.Parameter] = []
    for name, parameter in given.items():
        group = groups.get(name)
        shown += inspect.signature(group, eval_str=True).parameters.values() if group else [parameter]
    vars(command)["__signature__"] = inspect.Signature(shown)
    return command


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(text: str | None, option: str) -> float | None:
    """A duration such as ``90``, ``30m`` or ``1h30m`` in seconds; UsageError if it is not above zero."""
    if text is None:
        return None
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if not parts or "".join(map("".join, parts)) != text:
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


def parse_params(texts: Sequence[str] | None, file: Path | None) -> dict[str, Any] | None:
    """Ranges of params, of a file and of ``--param``, which overrides it; None without either.

    Raises:
        NotFound, DiskError: the file cannot be read.
        ValueError: it is no TOML document, or a text is no range of a param.
    """
    from mnist_search.files import read_text
    from search_space import SearchSpace
    from search_space.ranges import from_toml, parse

    if texts is None and file is None:
        return None
    ranges = from_toml(read_text(file, "name another with --space")) if file else {}
    return ranges | dict(parse(SearchSpace.widest().distributions, text) for text in texts or ())


def parse_jobs(text: str) -> int | None:
    """A number of worker processes; None for ``auto``, UsageError for any other text."""
    if text == "auto":
        return None
    if not re.fullmatch(r"[1-9]\d{0,2}", text):
        raise UsageError(f"--jobs takes a number from 1 to 999, or auto, not {text!r}")
    return int(text)
