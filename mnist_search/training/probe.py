"""Which way of doing a step's arithmetic is fastest here: measured once and remembered."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import TypeAlias

import torch

from mnist_search.errors import UnusableConfiguration
from mnist_search.training.device import describe_device
from mnist_search.training.digits import Digits
from mnist_search.training.model import build
from mnist_search.training.remember import cache_folder, remembered
from mnist_search.training.step import BEFORE_REPLAYS, Precision, Recorded, TrainStep, Way
from search_space import Architecture, TrainingConfig
from search_space.architecture import (
    BatchNorm,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Layer,
    Linear,
    MaxPool,
    ReLU,
)  # fmt: skip
from search_space.training import SGD, Augmentation

Milliseconds: TypeAlias = dict[str, float | str]
"""Of a step, by the name of its way; where a way does not work, what was said about it."""

WARM_UP, ROUNDS, STEPS = 2, 2, 3
"""Steps before a way is timed; how often it is, in turns with the others; steps each time."""


def fastest_way(device: torch.device, precision: str = "auto", cache: Path | None = None) -> Way:
    """The fastest way of ``precision`` on this device, or of any.

    Measured on a typical small network when asked for the first time, a second or two, and kept
    in ``cache`` (in the user's cache folder by default) for this device and version of torch.
    Where nothing can be kept it is measured every time.

    Raises:
        UnusableConfiguration: nothing of that precision works here.
    """
    names = {str(way) for way in ways(device)}
    took = remembered(
        cache or cache_folder() / "ways.json",
        device,
        lambda: measure(device),
        lambda known: known.keys() == names,
    )
    working = {
        way: milliseconds
        for way in ways(device)
        if precision in ("auto", way.precision) and isinstance(milliseconds := took[str(way)], float)
    }
    if not working:
        raise UnusableConfiguration(
            f"{precision} does not work on {describe_device(device)}; take --precision auto"
        )
    return min(working, key=working.__getitem__)


def ways(device: torch.device) -> list[Way]:
    """What may work on a device of this kind."""
    graph = (True, False) if device.type == "cuda" else (False,)
    precisions: tuple[Precision, ...] = ("bf16", "fp32")
    return [Way(*choice) for choice in product(precisions, (True, False), graph)]


def measure(device: torch.device) -> Milliseconds:
    """Time every way in turns; the best round counts."""
    took: Milliseconds = {}
    steps = {}
    for way in ways(device):
        try:
            step, batch = typical_step(device, way)
            for _ in range(BEFORE_REPLAYS if way.graph else WARM_UP):
                step(batch)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # torch has no kernel for it here
            took[str(way)] = str(error).splitlines()[0]
        else:
            steps[way] = step
    for _, (way, step) in product(range(ROUNDS), steps.items()):
        milliseconds = _time(step, batch)
        took[str(way)] = min(milliseconds, float(took.get(str(way), milliseconds)))
    return took


def _time(step: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor) -> float:
    started = time.perf_counter()
    for _ in range(STEPS):
        result = step(batch)
    result.tolist()  # waits for the device
    return 1e3 * (time.perf_counter() - started) / STEPS


def typical_step(
    device: torch.device, way: Way
) -> tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor]:
    """A step of a typical network on images of noise, and a batch for it."""
    size = 128
    images = torch.randint(0, 256, (size, 1, 28, 28), dtype=torch.uint8)
    train = Digits(images, torch.arange(size) % 10).to(device)
    config = TrainingConfig(
        epochs=1, batch_size=size, optimizer=SGD(0.01), augmentation=Augmentation.of_strength(0.5)
    )
    network = build(_network(), 0).to(device).to(memory_format=way.memory_format).train()
    step = TrainStep(network, train, config, way)
    return Recorded(step) if way.graph else step, torch.arange(size, device=device)


def _network() -> Architecture:
    def block(width: int) -> tuple[Layer, ...]:
        return Conv(width, 3), BatchNorm(), ReLU(), Dropout(0.05)

    return Architecture(
        (
            *block(8),
            *block(16),
            MaxPool(2),
            *block(12),
            *block(16),
            *block(20),
            GlobalAvgPool(),
            Flatten(),
            Linear(10),
        )
    )
