"""Training throughput in images per second, of the project's loop and of the handwritten one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch

from experiments.recipe import Recipe
from mnist_search.bench.handwritten_loop import handwritten_loop, images_per_second
from mnist_search.bench.process_pool import ProcessPool
from mnist_search.bench.reference import cached_split
from mnist_search.bench.result import Result, ratio_result, result
from mnist_search.training.device import select_compute_mode, usable_cores
from mnist_search.training.fit import fit
from mnist_search.training.model import build

WARM_UP_STEPS = 8
"""Steps of the handwritten loop before it is timed; its loader processes start during these."""

EPOCH_IMAGES = 50_000
"""Training images of a search by default."""

MIN_LOADER_STEPS = 10
"""Minimum number of timed steps when numbers of loader processes are compared."""


def project_rate(data_dir: Path, device: str, recipe: Recipe, steps: int) -> float:
    """Images per second of one process, in the second of two short epochs."""
    train = cached_split(data_dir, device).train[: steps * recipe.training.batch_size]
    network = build(recipe.architecture, 0)
    config = replace(recipe.training, epochs=2)
    compute_mode = select_compute_mode(torch.device(device))
    *_, last = fit(network, train, None, config, seed=0, compute_mode=compute_mode)
    return last.samples_per_second


def handwritten_rate(data_dir: Path, device: str, recipe: Recipe, steps: int, num_workers: int) -> float:
    """Images per second of the handwritten loop, without its start."""
    loop = handwritten_loop(recipe, cached_split(data_dir, "cpu").train, num_workers, device=device)
    return images_per_second(loop, WARM_UP_STEPS, steps)


def matmul_rate(size: int = 1024, rounds: int = 8) -> float:
    """Multiply-adds per second of an fp32 matrix product on one thread, the best of some rounds."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    times = [time.perf_counter()]
    for _ in range(rounds):
        a @ b
        times.append(time.perf_counter())
    return size**3 / min(after - before for before, after in pairwise(times))


@dataclass(frozen=True, kw_only=True)
class LoopBenchmark:
    """Compares the project's training loop with the handwritten one, alternating between them.

    On a CPU the project's loop runs in one process per core with one thread each. The handwritten
    loop runs in one process with all threads and the fastest number of loader processes.

    Attributes:
        project, handwritten: the pools that the loops run in.
        rounds: alternations.
        project_steps, handwritten_steps: timed steps of each round.
    """

    project: ProcessPool
    handwritten: ProcessPool
    data_dir: Path
    device: str
    rounds: int
    project_steps: int
    handwritten_steps: int

    def measure(self, recipe: Recipe) -> Iterator[Result]:
        """Compare the loops on one recipe; on seed-001 also with one core each."""
        num_workers = self._best_num_workers(recipe)
        project, handwritten = [], []
        for _ in range(self.rounds):
            project.append(self._project_rate(recipe))
            handwritten.append(self._handwritten_rate(recipe, self.handwritten_steps, num_workers))
        name = f"handwritten_loop.{recipe.name}"
        note = f"{recipe.name}, {self.project.processes} processes / one with {num_workers} loader processes"
        yield result(f"fit.{recipe.name}.samples_per_second", "images/s", project)
        yield result(f"{name}.samples_per_second", "images/s", handwritten)
        yield ratio_result(f"{name}.ratio", project, handwritten, note)
        if recipe.name == "seed-001":
            yield ratio_result("handwritten_loop.ratio", project, handwritten, note)
            if self.device == "cpu":
                yield self._core_ratio(recipe)

    def measure_reference(self, recipe: Recipe, *, compare: bool) -> Iterator[Result]:
        """Throughput of the reference first, with the handwritten loop if ``compare``, then derived figures."""
        if compare:
            first, *others = self.measure(recipe)
        else:
            rates = [self._project_rate(recipe) for _ in range(self.rounds)]
            first, *others = [result(f"fit.{recipe.name}.samples_per_second", "images/s", rates)]
        yield from (first, *others)
        processes = self.project.processes
        seconds = [EPOCH_IMAGES * processes / rate for rate in (first.max, first.median, first.min)]
        note = f"{EPOCH_IMAGES:,} images, {processes} concurrent trials"
        yield result("fit.epoch_seconds", "s", seconds, note)
        if self.device == "cpu":
            yield self._share_of_peak(recipe, first)

    def _project_rate(self, recipe: Recipe) -> float:
        """Images per second of all processes."""
        rates = self.project.run_all(project_rate, self.data_dir, self.device, recipe, self.project_steps)
        return sum(rates)

    def _handwritten_rate(self, recipe: Recipe, steps: int, num_workers: int) -> float:
        return self.handwritten.run_one(
            handwritten_rate, self.data_dir, self.device, recipe, steps, num_workers
        )

    def _best_num_workers(self, recipe: Recipe) -> int:
        steps = max(MIN_LOADER_STEPS, self.handwritten_steps // 2)
        candidates = [n for n in (0, 1, 2, 4, 8, 16) if n <= usable_cores()]
        return max(candidates, key=lambda n: self._handwritten_rate(recipe, steps, n))

    def _core_ratio(self, recipe: Recipe) -> Result:
        one, shared = self.project.run_one, (self.data_dir, "cpu", recipe)
        project, handwritten = [], []
        for _ in range(self.rounds):
            project.append(one(project_rate, *shared, self.project_steps))
            handwritten.append(one(handwritten_rate, *shared, self.handwritten_steps, 0))
        note = f"{recipe.name}, one thread each, no loader process"
        return ratio_result("handwritten_loop.core_ratio", project, handwritten, note)

    def _share_of_peak(self, recipe: Recipe, throughput: Result) -> Result:
        """Multiply-adds relative to the cores' matrix product; a step takes three forward passes."""
        peak = self.project.run_all(matmul_rate)
        work = 3 * recipe.architecture.multiply_adds()
        rates = (throughput.min, throughput.median, throughput.max)
        percent = [100 * work * rate / sum(peak) for rate in rates]
        note = f"fp32 peak {2e-9 * sum(peak) / len(peak):.0f} GFLOP/s per core, all cores busy"
        return result("fit.matmul_percent", "%", percent, note)
