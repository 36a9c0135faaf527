"""How many trainings a device carries best at once: measured once on a GPU and remembered."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from mnist_search.training.crew import Crew
from mnist_search.training.device import is_out_of_memory, usable_cores
from mnist_search.training.probe import fastest_way, typical_step
from mnist_search.training.remember import cache_folder, remembered

CANDIDATES = (1, 2, 4, 8, 16)

SECONDS = 1.0
"""For which every number of trainings is timed."""

STEPS_BETWEEN_LOOKS = 10
"""Steps after which the device is waited for."""

WORTH = 1.05
"""More trainings at once must be this much faster together: each has its memory and its start."""


def trials_at_once(device: torch.device, kept: Path | None = None) -> int:
    """One a core on a CPU; on a GPU as many as are fastest together, and no more than cores.

    Measured with processes of one training each, since that is what workers are, when asked for
    the first time; kept in ``kept`` (in the user's cache folder by default).
    """
    cores = usable_cores()
    if device.type == "cpu":
        return cores
    rates = remembered(kept or cache_folder() / "at-once.json", device, lambda: measure(device, cores))
    return best_number({int(number): rate for number, rate in rates.items() if int(number) <= cores})


def best_number(rates: dict[int, float]) -> int:
    """The number beyond which none is worth it; ``rates`` are steps per second, all together."""
    best, *more = sorted(rates)
    for number in more:
        if rates[number] >= WORTH * rates[best]:
            best = number
    return best


def measure(device: torch.device, most: int, seconds: float = SECONDS) -> dict[str, float]:
    """Steps per second of 1, 2, 4, ... up to ``most`` processes together, by their number.

    Ends early where the device has no memory for more.
    """
    numbers = [number for number in CANDIDATES if number <= most]
    rates: dict[str, float] = {}
    with Crew(numbers[-1], one_thread=True) as crew:
        for number in numbers:
            crew.some(number, _measured_here, device.type, 0.0)  # starts are not timed
            each = crew.some(number, _measured_here, device.type, seconds)
            if None in each:
                break
            rates[str(number)] = sum(rate for rate in each if rate is not None)
    return rates or {"1": 0.0}  # the first trial will say that there is no room


def _measured_here(device: str, seconds: float) -> float | None:
    return steps_per_second(lambda: _this_process_step(device), seconds)


@cache
def _this_process_step(device: str) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    where = torch.device(device)
    return typical_step(where, fastest_way(where))


def steps_per_second(
    make: Callable[[], tuple[Callable[[Tensor], Tensor], Tensor]], seconds: float
) -> float | None:
    """Of this process, over ``seconds`` and at least a look; None where there is no memory for it.

    Args:
        make: gives a step and a batch for it.
        seconds: for which it is timed.
    """
    try:
        step, batch = make()
        steps, started = 0, time.perf_counter()
        while not steps or time.perf_counter() - started < seconds:
            for _ in range(STEPS_BETWEEN_LOOKS):
                result = step(batch)
            result.tolist()  # waits for the device
            steps += STEPS_BETWEEN_LOOKS
    except Exception as error:
        if is_out_of_memory(error):
            return None
        raise
    return steps / (time.perf_counter() - started)
