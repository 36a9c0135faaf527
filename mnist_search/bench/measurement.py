"""What the measurements share: the amount of work, processes that take tasks, and the form of a result."""

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mnist_search.bench.reference import cached_split
from mnist_search.devices import TRIALS_PER_GPU
from mnist_search.process_env import ExitWithoutTeardown, usable_cores
from mnist_search.training.device import use_one_thread


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The amount of work; the defaults are the full benchmark on a CPU."""

    data_dir: Path
    device: str
    rounds: int = 3  # alternations of compared measurements
    handwritten_steps: int = 60  # timed steps of each training loop in each round
    project_steps: int = 60
    all_baselines: bool = True  # instead of seed-001 only
    epochs: int = 3  # this and what follows: of a timed study
    train_images: int = 10_000
    val_images: int = 2000
    trials_per_worker: int = 2
    keep_models: int = 5
    mlflow: bool = True

    @property
    def processes(self) -> int:
        """Concurrent processes of the project's training loop: one per core, or one on an accelerator."""
        return usable_cores() if self.device == "cpu" else 1

    @property
    def trial_threads(self) -> int:
        """Concurrent training runs of each process."""
        return TRIALS_PER_GPU if self.device == "cuda" else 1


QUICK: dict[str, Any] = {
    "rounds": 1, "handwritten_steps": 12, "project_steps": 12, "all_baselines": False,
    "epochs": 1, "train_images": 4000, "trials_per_worker": 1, "keep_models": 0,
}  # fmt: skip
"""Keeps no model: with one trial per worker it would be logged outside the timed part."""
# Whole epochs and whole trials, since shorter ones are too short to time.
FULL_ON_A_GPU: dict[str, Any] = {"rounds": 2, "project_steps": 390, "epochs": 15, "train_images": 50_000}


def start_processes(number: int, data_dir: Path, device: str, *, one_thread: bool) -> ProcessPoolExecutor:
    """Start processes that read the images, without waiting.

    Each has one thread, as a worker has, if ``one_thread``, and otherwise torch's default. Tasks
    that take as long as a measurement run concurrently, one in each process.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(number, context, _initialize, (data_dir, device, one_thread))
    for _ in range(number):
        pool.submit(os.getpid)  # the executor starts a process for each task
    return pool


def _initialize(data_dir: Path, device: str, one_thread: bool) -> None:
    ExitWithoutTeardown().code = 0
    if one_thread:
        use_one_thread()
    cached_split(data_dir, device)


@dataclass(frozen=True, slots=True)
class Result:
    """A measured quantity: the median of its rounds and their range."""

    name: str  # stable across machines and versions, so that results can be compared
    median: float
    unit: str
    min: float
    max: float
    note: str  # the conditions of the measurement


def result(name: str, unit: str, rounds: Sequence[float], note: str = "") -> Result:
    """The result of some rounds of one measurement."""
    return Result(name, median(rounds), unit, min(rounds), max(rounds), note)


def ratio_result(name: str, numerators: Sequence[float], denominators: Sequence[float], note: str) -> Result:
    """The ratio of two measurements, computed in each round."""
    return result(name, "x", [a / b for a, b in zip(numerators, denominators, strict=True)], note)
