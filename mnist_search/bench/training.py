"""Trained images per second: ours beside the loop that people write by hand."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch

from experiments.recipe import Recipe
from mnist_search.bench.crew import Crew, images
from mnist_search.bench.rows import Row, ratio, row
from mnist_search.bench.seed_loop import seed_loop, steady_rate
from mnist_search.training.device import resolve_precision
from mnist_search.training.digits import Digits
from mnist_search.training.fit import fit
from mnist_search.training.model import build

WARM_UP = 8
"""Steps of the seeds' loop before it is timed: its loader processes start in them."""


def our_rate(data_dir: Path, device: str, recipe: Recipe, steps: int) -> float:
    """Images per second of one process, in the second of two short epochs."""
    where = torch.device(device)
    train = images(data_dir, device).train
    size = recipe.training.batch_size
    few = Digits(train.images[: steps * size], train.labels[: steps * size])
    network = build(recipe.architecture, 0).to(where).to(memory_format=torch.channels_last)
    config = replace(recipe.training, epochs=2)
    *_, last = fit(network, few, None, config, seed=0, precision=resolve_precision("auto", where))
    return last.samples_per_second


def their_rate(data_dir: Path, recipe: Recipe, steps: int, loader_processes: int) -> float:
    """Images per second of the seeds' loop on the CPU, without its start."""
    loop = seed_loop(recipe, images(data_dir, "cpu").train, loader_processes)
    return steady_rate(loop, WARM_UP, steps)


def matmul_rate(size: int = 1024, rounds: int = 8) -> float:
    """Multiply-adds per second of an fp32 matrix product on one thread, the best of some rounds."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    clock = [time.perf_counter()]
    for _ in range(rounds):
        a @ b
        clock.append(time.perf_counter())
    return size**3 / min(after - before for before, after in pairwise(clock))


def measure(
    recipes: Sequence[Recipe], data_dir: Path, device: str, cores: int, *, rounds: int, steps: int
) -> Iterator[Row]:
    """Every recipe with both loops, alternating; the last recipe also against the core's peak."""
    processes = cores if device == "cpu" else 1
    with Crew(processes, one_thread=True) as ours, Crew(1, one_thread=False) as theirs:
        for recipe in recipes:
            loaders = _best_loader_processes(theirs, data_dir, recipe, cores)
            mine, others = [], []
            for _ in range(rounds):
                mine.append(sum(ours.together(our_rate, data_dir, device, recipe, steps)))
                others.append(theirs.alone(their_rate, data_dir, recipe, steps, loaders))
            whole = f"{recipe.name}, {processes} processes against one with {loaders} loader processes"
            yield row(f"fit.{recipe.name}.samples_per_second", "images/s", mine)
            yield row(f"seed_loop.{recipe.name}.samples_per_second", "images/s", others)
            yield ratio(f"seed_loop.{recipe.name}.ratio", mine, others, whole)
            if recipe.name == "seed-001":
                yield ratio("seed_loop.ratio", mine, others, whole)
                if device == "cpu":
                    yield _per_core(ours, data_dir, recipe, rounds, steps)
            if recipe.name == "reference" and device == "cpu":
                yield _share_of_peak(ours, recipe, [rate / processes for rate in mine])


def _best_loader_processes(theirs: Crew, data_dir: Path, recipe: Recipe, cores: int) -> int:
    rates = {n: theirs.alone(their_rate, data_dir, recipe, 15, n) for n in range(cores + 1)}
    return max(rates, key=rates.__getitem__)


def _per_core(crew: Crew, data_dir: Path, recipe: Recipe, rounds: int, steps: int) -> Row:
    mine, others = [], []
    for _ in range(rounds):
        mine.append(crew.alone(our_rate, data_dir, "cpu", recipe, steps))
        others.append(crew.alone(their_rate, data_dir, recipe, steps, 0))
    note = f"{recipe.name}, one thread each, no loader process"
    return ratio("seed_loop.core_ratio", mine, others, note)


def _share_of_peak(crew: Crew, recipe: Recipe, per_process: Sequence[float]) -> Row:
    """Forward and backward take three times the forward's multiply-adds."""
    peak = crew.together(matmul_rate)
    work = 3 * recipe.architecture.multiply_adds()
    percent = [100 * work * rate * len(peak) / sum(peak) for rate in per_process]
    note = f"fp32 peak {2e-9 * sum(peak) / len(peak):.0f} GFLOP/s a core, while all multiply"
    return row("fit.matmul_percent", "%", percent, note)
