"""Process-wide settings: environment variables, logging, cores, exit without interpreter teardown."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import warnings
from typing import NamedTuple

from mnist_search.errors import masked


class Setting(NamedTuple):
    """A setting of every command: environment variables, in order of precedence, and a default."""

    variables: tuple[str, ...]
    default: str

    @property
    def value(self) -> str:
        """That of the first variable that is set, else the default."""
        return next(filter(None, map(os.environ.get, self.variables)), self.default)


STORAGE = Setting(("MNIST_SEARCH_STORAGE", "OPTUNA_STORAGE"), "sqlite:///mnist-search.db")
TRACKING = Setting(("MLFLOW_TRACKING_URI",), "sqlite:///mlflow.db")
EXPERIMENT = Setting(("MLFLOW_EXPERIMENT_NAME",), "mnist-search")
DATA = Setting(("MNIST_SEARCH_DATA",), "")

DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # By default the client retries an unavailable server for minutes.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    # The server's job runner takes seven processes and 1.3 GB; nothing uses it.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    # A queue of the GPU per trial thread: 7 % more images/s on an H100 than with the default of 8.
    "CUDA_DEVICE_MAX_CONNECTIONS": "32",
}


def set_defaults() -> None:
    """Set variables, most only if the user has not, before MLflow is imported; also of child processes."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ["MPLBACKEND"] = "agg"  # figures are files; a notebook's backend may be missing here
    if any(option.startswith("error") for option in sys.warnoptions):
        restore_warning_filters()


def restore_warning_filters() -> None:
    """Use Python's default filters: as errors, warnings of libraries would end commands and workers."""
    os.environ.pop("PYTHONWARNINGS", None)
    warnings.resetwarnings()
    for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", category)


class MaskingFormatter(logging.Formatter):
    """A formatter that hides passwords of URLs, also in tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        """The masked line."""
        return masked(super().format(record))


VERBOSE = "MNIST_SEARCH_VERBOSE"
"""Environment variable by which worker processes inherit ``--verbose``."""


def configure_logging(*, verbose: bool = False) -> None:
    """Log to stderr at level INFO if ``verbose``, in this process and in its child processes."""
    if verbose:
        os.environ[VERBOSE] = "1"
    if logging.lastResort:
        logging.lastResort.setFormatter(MaskingFormatter("%(message)s"))
    if VERBOSE in os.environ:
        handler = logging.StreamHandler()
        handler.setFormatter(MaskingFormatter("%(asctime)s %(process)d %(name)s: %(message)s"))
        logging.basicConfig(handlers=[handler])
        logging.getLogger("mnist_search").setLevel(logging.INFO)


def exit_without_teardown(code: int) -> None:
    """Exit now: with torch and MLflow loaded, teardown takes 2-5 s and frees nothing that the OS keeps."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def usable_cores() -> int:
    """Number of cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class ExitWithoutTeardown:
    """Exit without interpreter teardown, after all threads and later-registered atexit hooks.

    Hooks run in reverse order of registration: create the object before heavy imports.

    Attributes:
        code: exit code of the process.
    """

    def __init__(self) -> None:
        self.code = 1
        atexit.register(lambda: exit_without_teardown(self.code))
