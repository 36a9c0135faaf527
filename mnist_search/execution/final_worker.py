"""A worker of a series: claims trainings and runs them, one after the other, until none is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from mnist_search.execution.events import Message
from mnist_search.execution.runtime import Channel, renewing_lease, serve
from mnist_search.records import FinalResult, FinalTask
from mnist_search.search.stopping import StopConditions
from mnist_search.storage.database import Store
from mnist_search.storage.final_queue import FinalClaim, FinalQueue

if TYPE_CHECKING:
    from mnist_search.data.dataset import Digits
    from mnist_search.training.device import ComputeMode, PrecisionChoice

WAIT_SECONDS = 2.0
"""Between looks whether another worker's training was left to be begun again."""


class Cancelled(Exception):
    """The training is not this worker's to finish."""


@dataclass(frozen=True, kw_only=True)
class FinalWorkerConfig:
    """What a worker process is told; travels by pickle."""

    storage: str
    series: str
    data_dir: Path
    device: str
    precision: PrecisionChoice
    limits: StopConditions = field(default_factory=StopConditions)


@dataclass(frozen=True)
class FinalContext:
    """What every training of a worker is run with."""

    train: Digits
    test: Digits
    compute_mode: ComputeMode


def main(worker_config: FinalWorkerConfig, connection: Connection) -> None:
    """Entry of a worker process."""
    serve(connection, lambda channel: work(worker_config, channel))


def work(worker_config: FinalWorkerConfig, channel: Channel) -> None:
    """Run trainings until none is left or the supervisor says stop."""
    from mnist_search.data.dataset import load_train_and_test
    from mnist_search.training.device import resolve_device, select_compute_mode

    device = resolve_device(worker_config.device)
    series = FinalQueue(Store.open(worker_config.storage, write=True), worker_config.series)
    ground = FinalContext(
        *load_train_and_test(worker_config.data_dir, device),
        select_compute_mode(device, worker_config.precision),
    )
    while not channel.should_stop:
        claim = series.claim()
        if claim is not None:
            _run(series, claim, ground, channel)
        elif series.open:
            time.sleep(WAIT_SECONDS)
        else:
            return


def _run(series: FinalQueue, claim: FinalClaim, ground: FinalContext, channel: Channel) -> None:
    """Run one training and settle it, or put it back."""
    from mnist_search.execution.trials import run_final_trial  # torch

    task = claim.training.task
    try:
        with renewing_lease(lambda: series.renew(claim)) as lost:
            checkpoint = _checkpoint(channel, lost)
            result, trained = run_final_trial(
                task, ground.train, ground.test, ground.compute_mode, checkpoint=checkpoint
            )
            if series.finish(claim, result, trained):
                channel.send(Message(_told(task, result)))
    except Cancelled:
        series.release(claim)
    except BaseException:
        series.release(claim)
        raise


def _checkpoint(channel: Channel, lost: Event) -> Callable[[], None]:
    def check() -> None:
        if channel.should_stop or lost.is_set():
            raise Cancelled

    return check


def _told(task: FinalTask, result: FinalResult) -> str:
    """A training's end in one line."""
    if result.test_accuracy is None:
        return f"{task.name}, seed {task.seed}: {result.failure}"
    best = result.best_epoch_accuracy
    extra = "" if best is None else f" (best epoch {100 * best:.2f} %)"
    end = f"{100 * result.test_accuracy:.2f} % on test{extra}"
    return f"{task.name}, seed {task.seed}: {end} after {len(result.curve)} epochs, {result.seconds:.0f} s"
