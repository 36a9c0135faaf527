"""One final training: all 60,000 images, the last epoch, a look at the test set."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from safetensors.torch import save

from mnist_search.tasks import Result, Task
from mnist_search.training.device import describe_device
from mnist_search.training.digits import Digits
from mnist_search.training.fit import Diverged, EpochRecord, evaluate, fit
from mnist_search.training.model import build
from mnist_search.training.step import Way
from mnist_search.version import __version__


def retrain(
    task: Task,
    train: Digits,
    test: Digits,
    way: Way,
    *,
    checkpoint: Callable[[], None] = lambda: None,
    on_epoch: Callable[[EpochRecord], None] = lambda _: None,
) -> tuple[Result, bytes | None]:
    """Train a task to its end; its result and its weights as safetensors.

    The test set is opened after the last epoch and decides nothing, unless the task is to be
    judged after every epoch. Then a plateau schedule follows it, as its author's did.

    Args:
        task: what to train.
        train: all 60,000 training images.
        test: the test images, on the same device.
        way: how to do the arithmetic.
        checkpoint: called every few steps; what it raises ends the training.
        on_epoch: told of every epoch.
    """
    started = time.monotonic()
    network = build(task.architecture, task.seed)
    judges = test if task.judged == "every epoch" else None
    curve: list[dict[str, Any]] = []
    epochs = fit(network, train, judges, task.training, seed=task.seed, way=way, checkpoint=checkpoint)
    came_to = partial(
        Result, curve=curve, device=f"{describe_device(train.images.device)}, {way}", version=__version__
    )
    try:
        for record in epochs:
            curve.append(_epoch(record))
            on_epoch(record)
    except Diverged as error:
        return came_to(seconds=time.monotonic() - started, failure=f"diverged: {error}"), None
    judged = evaluate(network, test)
    result = came_to(test_accuracy=judged.accuracy, test_loss=judged.loss, seconds=time.monotonic() - started)
    return result, save({k: v.cpu().contiguous() for k, v in network.state_dict().items()})


def _epoch(record: EpochRecord) -> dict[str, Any]:
    """An epoch whose judge, if it had one, was the test set."""
    plain = asdict(record) | {"timestamp": int(1000 * time.time())}
    loss, accuracy = plain.pop("val_loss"), plain.pop("val_accuracy")
    return plain if accuracy is None else plain | {"test_loss": loss, "test_accuracy": accuracy}
