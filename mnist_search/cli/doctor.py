"""The verb that checks an installation, its stores and what MLflow has of them: doctor."""

from __future__ import annotations

import platform
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import chain

from mnist_search import __version__
from mnist_search.cli import options as opt
from mnist_search.cli.output import print_fields, print_rows
from mnist_search.errors import MnistSearchError, NotFound, UnusableConfiguration, first_line

MAX_SKEW_SECONDS = 60.0
MAX_LINES = 3
"""Differences between a study and MLflow that are listed."""


@dataclass(frozen=True, slots=True)
class Check:
    """A line of the result: ``ok``, ``problem``, or ``-`` if there is nothing to check."""

    check: str
    result: str
    details: str


def doctor(
    storage: opt.StorageOption = opt.DEFAULT_STORAGE,
    tracking_uri: opt.TrackingOption = opt.DEFAULT_TRACKING,
    data_dir: opt.DataOption = None,
    output_format: opt.FormatOption = "table",
) -> None:
    """Check Python, devices, data, the study store and MLflow, and compare both trial by trial.

    Nothing is written. The exit code is 78 if a check finds a problem.
    """
    checks = [
        _run(name, check)
        for name, check in {
            "software": _software,
            "device": _device,
            "SQLite": _sqlite,
            "data": lambda: _data(data_dir),
            "store": lambda: _store(storage),
            "clock": lambda: _clock(storage),
            "MLflow": lambda: _mlflow(tracking_uri),
            "store and MLflow": lambda: _agreement(storage, tracking_uri),
        }.items()
    ]
    if output_format == "table":  # whose rows would be shortened
        print_fields({each.check: f"{each.result:7}  {each.details}" for each in checks}, output_format)
    else:
        print_rows([asdict(each) for each in checks], output_format, ("check", "result", "details"))
    if problems := [check.check for check in checks if check.result == "problem"]:
        raise UnusableConfiguration(
            f"{len(problems)} of {len(checks)} checks found a problem: {', '.join(problems)}"
        )


class _NothingToCheck(Exception):
    """The details of a check that has no subject."""


def _run(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", check())
    except (_NothingToCheck, NotFound) as reason:
        return Check(name, "-", str(reason))
    except MnistSearchError as error:
        return Check(name, "problem", str(error))
    except Exception as error:  # noqa: BLE001 - whatever a driver, a database or a server raises
        return Check(name, "problem", f"{type(error).__name__}: {first_line(error)}")


def _software() -> str:
    packages = ("torch", "optuna", "mlflow", "sqlalchemy")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"mnist-search {__version__}, Python {platform.python_version()}, {versions}"


def _device() -> str:
    from mnist_search.devices import default_jobs, resolve_devices
    from mnist_search.process_env import usable_cores

    devices = resolve_devices("auto")
    jobs = len(devices) * default_jobs(devices[0])
    return f"{', '.join(devices)}; {usable_cores()} usable cores, {jobs} concurrent trials by default"


def _sqlite() -> str:
    from mnist_search.storage.database import WAL_IS_SAFE_SINCE

    mode = "WAL" if sqlite3.sqlite_version_info >= WAL_IS_SAFE_SINCE else "rollback journal"
    return f"{sqlite3.sqlite_version}, {mode}"


def _data(data_dir: opt.DataOption) -> str:
    from mnist_search.data import mnist

    folder = data_dir or mnist.cache_dir()
    if not folder.is_dir():
        raise _NothingToCheck(f"no MNIST in {folder}; download it with mnist-search data")
    mnist.verify(folder)
    return f"checksums of {folder}"


def _store(storage: str) -> str:
    from mnist_search.storage.database import Store
    from mnist_search.storage.file_systems import network_file_system
    from mnist_search.storage.names import search_study_names

    store = Store.open(storage)
    if store.path and (kind := network_file_system(store.path)):
        raise UnusableConfiguration(
            f"{store} is on {kind}, where SQLite's locks can fail; move it to PostgreSQL with mnist-search copy"
        )
    return f"{store}; studies: {len(search_study_names(storage))}"


def _clock(storage: str) -> str:
    from mnist_search.storage.database import Store

    skew = Store.open(storage).clock_skew()
    if abs(skew) > MAX_SKEW_SECONDS:
        raise UnusableConfiguration(
            f"this machine's clock is {skew:+.0f} s from the store's; synchronize both, or times of trials are wrong"
        )
    return f"{skew:+.1f} s from the store's"


def _mlflow(tracking_uri: str) -> str:
    from mnist_search.tracking.check import n_experiments
    from mnist_search.tracking.config import make_tracking_config

    config = make_tracking_config(tracking_uri, "")
    number = n_experiments(config)
    if number is None:
        raise _NothingToCheck(f"no database {config.tracking_uri}; mnist-search run creates it")
    return f"{config.tracking_uri}; experiments: {number}"


def _agreement(storage: str, tracking_uri: str) -> str:
    found = list(_compared(storage, tracking_uri))
    lines = list(chain.from_iterable(found))
    if lines:
        more = f" and {len(lines) - MAX_LINES} more" if len(lines) > MAX_LINES else ""
        raise UnusableConfiguration(
            f"{'; '.join(lines[:MAX_LINES])}{more}; the next run, resume or finalize of the study corrects it"
        )
    if not found:
        raise _NothingToCheck("no study of the store is in this MLflow")
    return f"every trained trial has its run; compared studies, finals included: {len(found)}"


def _compared(storage: str, tracking_uri: str) -> Iterator[list[str]]:
    """The differences of every study, searches and finals, that was logged to this MLflow."""
    from mnist_search.storage import studies
    from mnist_search.storage.database import Store
    from mnist_search.storage.tracked import TrackedStudy
    from mnist_search.tracking.check import differences, n_experiments
    from mnist_search.tracking.config import make_tracking_config

    config, store = make_tracking_config(tracking_uri, ""), Store.open(storage)
    if n_experiments(config) is None:
        return
    for name in studies.mnist_search_names(store):
        found = differences(TrackedStudy(store, name), config)
        if found is not None:
            yield found
