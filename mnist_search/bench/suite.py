"""The benchmark: every measurement in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import optuna
import torch

from experiments import BASELINES
from mnist_search.bench import overhead, reference, studies, throughput
from mnist_search.bench.process_pool import ProcessPool
from mnist_search.bench.result import Result
from mnist_search.data import mnist
from mnist_search.training.device import describe_device, resolve_device, usable_cores


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchConfig:
    """The amount of work; the defaults are the full benchmark on a CPU.

    Attributes:
        rounds: alternations of compared measurements.
        handwritten_steps, project_steps: timed steps of each training loop in each round.
        all_baselines: measure every baseline instead of seed-001 only.
        epochs, train_images: of each trial of a timed study.
        trials_per_worker, keep_models: of a timed study.
    """

    rounds: int = 3
    handwritten_steps: int = 60
    project_steps: int = 60
    all_baselines: bool = True
    epochs: int = 3
    train_images: int = 10_000
    trials_per_worker: int = 2
    keep_models: int = 5


FULL = BenchConfig()
QUICK = BenchConfig(
    rounds=1, handwritten_steps=12, project_steps=12, all_baselines=False,
    epochs=1, train_images=4000, trials_per_worker=1, keep_models=0,
)  # fmt: skip
"""Keeps no model: with one trial per worker it would be logged outside the timed part."""
FULL_ON_A_GPU = replace(FULL, rounds=2, project_steps=390, epochs=15, train_images=50_000)
"""Whole epochs and whole trials, since shorter ones are too short to time."""

GPU_JOBS = (1, 2, 4, 8, 16)


def config_for(device: str, *, quick: bool) -> BenchConfig:
    """The amount of work on a device of this type."""
    if quick:
        return QUICK
    return FULL_ON_A_GPU if device == "cuda" else FULL


def measure(data_dir: Path | None, device_name: str, folder: Path, *, quick: bool) -> Iterator[Result]:
    """Run every measurement; yields each result when it is available.

    Args:
        data_dir: the MNIST files; None for the cache.
        device_name: auto, cuda, mps or cpu.
        folder: an empty folder for the stores of the timed studies.
        quick: measure one round of little work.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    device, data_dir = resolve_device(device_name).type, mnist.resolve_data_dir(data_dir).absolute()
    config = config_for(device, quick=quick)
    cores = usable_cores()
    for function in (overhead.budget_count, overhead.suggestion, overhead.help_time):
        yield function(config.rounds)

    processes, jobs = (cores, sorted({1, cores})) if device == "cpu" else (1, GPU_JOBS)
    with ProcessPool(processes, one_thread=True) as project, ProcessPool(1, one_thread=False) as handwritten:
        project.warm_up(reference.cached_split, data_dir, device)
        handwritten.warm_up(reference.cached_split, data_dir, "cpu")
        overhead.create_mlflow_database(folder)  # while the processes start
        loops = throughput.LoopBenchmark(
            project=project, handwritten=handwritten, data_dir=data_dir, device=device, rounds=config.rounds,
            project_steps=config.project_steps, handwritten_steps=config.handwritten_steps,
        )  # fmt: skip
        for recipe in BASELINES.values() if config.all_baselines else [BASELINES["seed-001"]]:
            yield from loops.measure(recipe)
        speed, *others = loops.measure_reference(reference.recipe(), compare=config.all_baselines)
        yield from (speed, *others)
        yield from overhead.logging_overhead(data_dir, folder, speed.median / processes)
        workload = studies.StudyWorkload(
            data_dir=data_dir, device=device, epochs=config.epochs, train_images=config.train_images,
            keep_models=config.keep_models,
        )  # fmt: skip
        yield from studies.measure(
            workload, folder, jobs, handwritten, rounds=config.rounds,
            trials_per_worker=config.trials_per_worker, handwritten_images=config.train_images // 4,
        )  # fmt: skip


def describe_machine(device_name: str) -> dict[str, str | int]:
    """Device, number of cores and version of torch."""
    device = resolve_device(device_name)
    return {"device": describe_device(device), "cores": usable_cores(), "torch": torch.__version__}
