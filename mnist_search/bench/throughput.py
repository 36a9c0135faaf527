"""Trained images per second: ours beside the loop that people write by hand."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch

from experiments.recipe import Recipe
from mnist_search.bench.handwritten_loop import handwritten_loop, steady_rate
from mnist_search.bench.images import images
from mnist_search.bench.process_pool import ProcessPool
from mnist_search.bench.result import Row, ratio, row
from mnist_search.training.device import select_compute_mode, usable_cores
from mnist_search.training.fit import fit
from mnist_search.training.model import build

WARM_UP = 8
"""Steps of the seeds' loop before it is timed: its loader processes start in them."""

IMAGES = 50_000
"""Of an epoch of a search."""

PROBE = 10
"""Steps, at least, after which one number of loader processes is held for better than another."""


def our_rate(data_dir: Path, device: str, recipe: Recipe, steps: int) -> float:
    """Images per second of one process, in the second of two short epochs."""
    where = torch.device(device)
    train = images(data_dir, device).train
    size = recipe.training.batch_size
    few = train[: steps * size]
    network = build(recipe.architecture, 0)
    config = replace(recipe.training, epochs=2)
    *_, last = fit(network, few, None, config, seed=0, compute_mode=select_compute_mode(where))
    return last.samples_per_second


def their_rate(data_dir: Path, device: str, recipe: Recipe, steps: int, loader_processes: int) -> float:
    """Images per second of the seeds' loop, without its start."""
    loop = handwritten_loop(recipe, images(data_dir, "cpu").train, loader_processes, device=device)
    return steady_rate(loop, WARM_UP, steps)


def matmul_rate(size: int = 1024, rounds: int = 8) -> float:
    """Multiply-adds per second of an fp32 matrix product on one thread, the best of some rounds."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    clock = [time.perf_counter()]
    for _ in range(rounds):
        a @ b
        clock.append(time.perf_counter())
    return size**3 / min(after - before for before, after in pairwise(clock))


class LoopBenchmark:
    """Our loop and the seeds', each in warm processes, to be timed in turns.

    On a CPU ours has a process of one thread per core; the seeds' has one process with all
    threads and as many loader processes as serve it best.
    """

    def __init__(
        self,
        ours: ProcessPool,
        theirs: ProcessPool,
        *,
        data_dir: Path,
        device: str,
        rounds: int,
        steps: int,
        our_steps: int,
    ) -> None:
        self._ours = ours
        self._theirs = theirs
        self._data_dir = data_dir
        self._device = device
        self._rounds = rounds
        self._steps = steps
        self._our_steps = our_steps

    def measure(self, recipe: Recipe) -> Iterator[Row]:
        """Both loops on one recipe; seed 001 also core against core."""
        loaders = self._best_loader_processes(recipe)
        ours, theirs = [], []
        for _ in range(self._rounds):
            ours.append(self._whole_machine(recipe))
            theirs.append(
                self._theirs.run_one(their_rate, self._data_dir, self._device, recipe, self._steps, loaders)
            )
        what = f"{recipe.name}, {self._ours.processes} processes against one with {loaders} loader processes"
        yield row(f"fit.{recipe.name}.samples_per_second", "images/s", ours)
        yield row(f"handwritten_loop.{recipe.name}.samples_per_second", "images/s", theirs)
        yield ratio(f"handwritten_loop.{recipe.name}.ratio", ours, theirs, what)
        if recipe.name == "seed-001":
            yield ratio("handwritten_loop.ratio", ours, theirs, what)
            if self._device == "cpu":
                yield self._core_against_core(recipe)

    def measure_reference(self, recipe: Recipe, *, beside_theirs: bool) -> Iterator[Row]:
        """The reference, beside the seeds' loop if wanted, and beside the core's peak."""
        rows = list(self.measure(recipe)) if beside_theirs else [self._ours_only(recipe)]
        yield from rows
        seconds = [
            IMAGES * self._ours.processes / rate for rate in (rows[0].max, rows[0].median, rows[0].min)
        ]
        yield row(
            "fit.epoch_seconds", "s", seconds, f"{IMAGES:,} images, {self._ours.processes} trials at once"
        )
        if self._device == "cpu":
            yield self._share_of_peak(recipe, rows[0])

    def _whole_machine(self, recipe: Recipe) -> float:
        return sum(self._ours.run_all(our_rate, self._data_dir, self._device, recipe, self._our_steps))

    def _ours_only(self, recipe: Recipe) -> Row:
        rates = [self._whole_machine(recipe) for _ in range(self._rounds)]
        return row(f"fit.{recipe.name}.samples_per_second", "images/s", rates)

    def _best_loader_processes(self, recipe: Recipe) -> int:
        steps = max(PROBE, self._steps // 2)
        rates = {
            n: self._theirs.run_one(their_rate, self._data_dir, self._device, recipe, steps, n)
            for n in (0, 1, 2, 4, 8, 16)
            if n <= usable_cores()
        }
        return max(rates, key=rates.__getitem__)

    def _core_against_core(self, recipe: Recipe) -> Row:
        ours, theirs = [], []
        for _ in range(self._rounds):
            ours.append(self._ours.run_one(our_rate, self._data_dir, "cpu", recipe, self._our_steps))
            theirs.append(self._ours.run_one(their_rate, self._data_dir, "cpu", recipe, self._steps, 0))
        note = f"{recipe.name}, one thread each, no loader process"
        return ratio("handwritten_loop.core_ratio", ours, theirs, note)

    def _share_of_peak(self, recipe: Recipe, speed: Row) -> Row:
        """Forward and backward take three times the forward's multiply-adds."""
        peak = self._ours.run_all(matmul_rate)
        work = 3 * recipe.architecture.multiply_adds()
        percent = [100 * work * rate / sum(peak) for rate in (speed.min, speed.median, speed.max)]
        note = f"fp32 peak {2e-9 * sum(peak) / len(peak):.0f} GFLOP/s a core, while all multiply"
        return row("fit.matmul_percent", "%", percent, note)
