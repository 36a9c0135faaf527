"""A worker of a series: claims trainings and runs them, one after the other, until none is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from mnist_search.study.events import Message
from mnist_search.study.limits import Limits
from mnist_search.study.process import Line, beating, serve
from mnist_search.study.series import Series, TrainingClaim
from mnist_search.study.store import Store
from mnist_search.tasks import Result, Task

if TYPE_CHECKING:
    from mnist_search.training.digits import Digits
    from mnist_search.training.step import Way

WAIT_SECONDS = 2.0
"""Between looks whether another worker's training was left to be begun again."""


class Left(Exception):
    """The training is not this worker's to finish."""


@dataclass(frozen=True, kw_only=True)
class SeriesJob:
    """What a worker process is told; travels by pickle."""

    storage: str
    series: str
    data_dir: Path
    device: str
    precision: str
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Ground:
    """What every training of a worker is run with."""

    train: Digits
    test: Digits
    way: Way


def main(job: SeriesJob, connection: Connection) -> None:
    """Entry of a worker process."""
    serve(connection, lambda line: work(job, line))


def work(job: SeriesJob, line: Line) -> None:
    """Run trainings until none is left or the supervisor says stop."""
    from mnist_search.training.device import resolve_device
    from mnist_search.training.digits import load_everything
    from mnist_search.training.probe import fastest_way

    device = resolve_device(job.device)
    series = Series(Store.open(job.storage, write=True), job.series)
    ground = Ground(*load_everything(job.data_dir, device), fastest_way(device, job.precision))
    while not line.must_stop:
        claim = series.claim()
        if claim is not None:
            _run(series, claim, ground, line)
        elif series.open:
            time.sleep(WAIT_SECONDS)
        else:
            return


def _run(series: Series, claim: TrainingClaim, ground: Ground, line: Line) -> None:
    """Run one training and settle it, or put it back."""
    from mnist_search.retrain import retrain  # torch

    task = claim.training.task
    try:
        with beating(lambda: series.beat(claim)) as lost:
            checkpoint = _checkpoint(line, lost)
            result, trained = retrain(task, ground.train, ground.test, ground.way, checkpoint=checkpoint)
            if series.settle(claim, result, trained):
                line.tell(Message(_told(task, result)))
    except Left:
        series.put_back(claim)
    except BaseException:
        series.put_back(claim)
        raise


def _checkpoint(line: Line, lost: Event) -> Callable[[], None]:
    def check() -> None:
        if line.must_stop or lost.is_set():
            raise Left

    return check


def _told(task: Task, result: Result) -> str:
    """A training's end in one line."""
    if result.test_accuracy is None:
        return f"{task.name}, seed {task.seed}: {result.failure}"
    best = result.best_epoch_accuracy
    extra = "" if best is None else f" (best epoch {100 * best:.2f} %)"
    end = f"{100 * result.test_accuracy:.2f} % on test{extra}"
    return f"{task.name}, seed {task.seed}: {end} after {len(result.curve)} epochs, {result.seconds:.0f} s"
