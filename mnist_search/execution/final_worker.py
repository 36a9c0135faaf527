"""Worker of final training: claim a task, run it, finish or release it, until none is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from threading import Event

from mnist_search.data.dataset import load_train_and_test
from mnist_search.execution.config import FinalWorkerConfig
from mnist_search.execution.events import Message
from mnist_search.execution.runtime import Channel, renewing_lease
from mnist_search.execution.trials import Interrupted, run_final_trial
from mnist_search.records import FinalResult, FinalTask, percent
from mnist_search.storage.database import Store
from mnist_search.storage.final_queue import FinalClaim, FinalQueue
from mnist_search.training.device import resolve_device, select_compute_mode

WAIT_SECONDS = 2.0
"""Interval of checks whether another worker has released its task."""


def run_final_worker(config: FinalWorkerConfig, channel: Channel) -> None:
    """Run tasks until none is left or the supervisor requests a stop."""
    device = resolve_device(config.device)
    compute_mode = select_compute_mode(device, config.precision)
    queue = FinalQueue(Store.open(config.storage, write=True), config.queue)
    train, test = load_train_and_test(config.data_dir, device)
    train_task = partial(run_final_trial, train=train, test=test, compute_mode=compute_mode)
    while not channel.should_stop:
        claim = queue.claim()
        if claim is not None:
            _run_task(queue, claim, train_task, channel)
        elif queue.open:
            time.sleep(WAIT_SECONDS)
        else:
            return


def _run_task(
    queue: FinalQueue,
    claim: FinalClaim,
    train: Callable[..., tuple[FinalResult, bytes | None]],
    channel: Channel,
) -> None:
    """Run one task and finish it, or release it."""
    task = claim.training.task
    try:
        with renewing_lease(lambda: queue.renew(claim)) as lost:
            result, weights = train(task, checkpoint=_checkpoint(channel, lost))
            if queue.finish(claim, result, weights):
                channel.send(Message(_summary(task, result)))
    except BaseException as error:
        queue.release(claim)
        if not isinstance(error, Interrupted):
            raise


def _checkpoint(channel: Channel, lost: Event) -> Callable[[], None]:
    def check() -> None:
        if channel.should_stop or lost.is_set():
            raise Interrupted

    return check


def _summary(task: FinalTask, result: FinalResult) -> str:
    if result.test_accuracy is None:
        return f"{task.name}, seed {task.seed}: {result.failure}"
    best = result.best_epoch_accuracy
    best_epoch = "" if best is None else f" (best epoch {percent(best)})"
    accuracy = f"{percent(result.test_accuracy)} on the test set{best_epoch}"
    return (
        f"{task.name}, seed {task.seed}: {accuracy} after {len(result.curve)} epochs, {result.seconds:.0f} s"
    )
