"""All measurements, in turn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import optuna
import torch

from experiments import BASELINES
from mnist_search.bench import overhead, reference, studies, throughput
from mnist_search.bench.images import images
from mnist_search.bench.process_pool import ProcessPool
from mnist_search.bench.result import Row
from mnist_search.data import mnist
from mnist_search.training.device import describe_device, resolve_device, usable_cores


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchConfig:
    """How much is measured.

    Attributes:
        rounds: alternations of what is compared.
        steps: timed steps of the seeds' loop in each round.
        our_steps: of ours.
        all_seeds: all five seeds' networks, or the second alone.
        epochs, train_images: of each trial of a timed study.
        trials_each: trials per worker of a timed study.
        keep_models: of a timed study; a single trial's model is logged after the clock has stopped.
    """

    rounds: int
    steps: int
    our_steps: int
    all_seeds: bool
    epochs: int
    train_images: int
    trials_each: int
    keep_models: int


QUICK = BenchConfig(
    rounds=1, steps=12, our_steps=12, all_seeds=False, epochs=1, train_images=4000, trials_each=1, keep_models=0
)  # fmt: skip
FULL = BenchConfig(
    rounds=3, steps=60, our_steps=60, all_seeds=True, epochs=3, train_images=10_000, trials_each=2, keep_models=5
)  # fmt: skip
FULL_ON_A_GPU = replace(FULL, rounds=2, our_steps=390, epochs=15, train_images=50_000)
"""Whole epochs and whole trials: less is over before it can be timed."""

AT_ONCE_ON_A_GPU = (1, 2, 4, 8, 16)


def effort_for(device: str, *, quick: bool) -> BenchConfig:
    """How much to measure on a device of this type."""
    if quick:
        return QUICK
    return FULL_ON_A_GPU if device == "cuda" else FULL


def measure(data_dir: Path | None, device_name: str, folder: Path, *, quick: bool) -> Iterator[Row]:
    """Every figure, as soon as it is known.

    Args:
        data_dir: the MNIST files; None for the cache.
        device_name: auto, cuda, mps or cpu.
        folder: an empty folder for the stores of the timed studies.
        quick: whether to measure little.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    device, data_dir = resolve_device(device_name).type, mnist.find(data_dir).absolute()
    effort = effort_for(device, quick=quick)
    cores = usable_cores()
    yield overhead.budget_count(effort.rounds)
    yield overhead.suggestion(effort.rounds)
    yield overhead.help_time(effort.rounds)

    processes = cores if device == "cpu" else 1
    seeds = list(BASELINES.values()) if effort.all_seeds else [BASELINES["seed-001"]]
    work = studies.Work(
        data_dir=data_dir,
        device=device,
        epochs=effort.epochs,
        train_images=effort.train_images,
        keep_models=effort.keep_models,
    )
    jobs = sorted({1, cores}) if device == "cpu" else AT_ONCE_ON_A_GPU
    with ProcessPool(processes, one_thread=True) as ours, ProcessPool(1, one_thread=False) as theirs:
        ours.warm_up(images, data_dir, device)
        theirs.warm_up(images, data_dir, "cpu")
        overhead.make_mlflow_store(folder)  # while they wake
        loops = throughput.LoopBenchmark(
            ours, theirs, data_dir=data_dir, device=device,
            rounds=effort.rounds, steps=effort.steps, our_steps=effort.our_steps,
        )  # fmt: skip
        for recipe in seeds:
            yield from loops.measure(recipe)
        speed, *rest = loops.measure_reference(reference.recipe(), beside_theirs=effort.all_seeds)
        yield from (speed, *rest)
        yield from overhead.logging_tax(data_dir, folder, speed.value / processes)
        yield from studies.measure(
            work, folder, jobs, theirs, rounds=effort.rounds,
            trials_each=effort.trials_each, plain_images=effort.train_images // 4,
        )  # fmt: skip


def machine(device_name: str) -> dict[str, str | int]:
    """What the figures were measured on."""
    device = resolve_device(device_name)
    return {"device": describe_device(device), "cores": usable_cores(), "torch": torch.__version__}
