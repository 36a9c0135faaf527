"""Training throughput in images per second, of the project's loop and of the handwritten one."""

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from timeit import repeat

import torch

from experiments.recipe import Recipe
from mnist_search.bench.handwritten_loop import handwritten_loop
from mnist_search.bench.measurement import Result, Workload, ratio_result, result
from mnist_search.bench.reference import cached_split
from mnist_search.process_env import usable_cores
from mnist_search.training.device import own_stream, select_compute_mode
from mnist_search.training.fit import fit
from mnist_search.training.model import build
from mnist_search.training.optim import cycles_momentum
from search_space.training_config import OneCycle

EPOCH_IMAGES = 50_000  # training images of a search by default


def project_rate(work: Workload, recipe: Recipe, n_threads: int = 1) -> float:
    """Images per second of the training runs of one process, in the second of two short epochs."""
    train = cached_split(work.data_dir, work.device).train[: work.project_steps * recipe.training.batch_size]
    config, device = replace(recipe.training, epochs=2), torch.device(work.device)
    if cycles_momentum(config.schedule):  # which no CUDA graph does; the work of a step is the same
        config = replace(config, schedule=OneCycle(cycle_momentum=False))

    def train_two_epochs(seed: int) -> float:
        network, mode = build(recipe.architecture, seed), select_compute_mode(device)
        with own_stream(device):
            *_, last = fit(network, train, None, config, seed=seed, compute_mode=mode)
        return last.samples_per_second

    with ThreadPoolExecutor(n_threads) as threads:
        return sum(threads.map(train_two_epochs, range(n_threads)))


def trial_memory(work: Workload, recipe: Recipe, n_threads: int) -> float:
    """MiB of GPU memory per training run, at the peak."""
    torch.cuda.reset_peak_memory_stats()
    project_rate(work, recipe, n_threads)
    return torch.cuda.max_memory_allocated() / n_threads / 2**20


def handwritten_rate(work: Workload, recipe: Recipe, steps: int, num_workers: int) -> float:
    """Images per second of the handwritten loop after eight steps, in which its loader processes start."""
    loop = handwritten_loop(recipe, cached_split(work.data_dir, "cpu").train, num_workers, work.device)
    for _ in range(8):
        next(loop)
    started = time.perf_counter()
    images = sum(images for images, *_ in islice(loop, steps))
    return images / (time.perf_counter() - started)


def matmul_rate(size: int) -> float:
    """Multiply-adds per second of an fp32 matrix product on one thread, the best of eight."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    return size**3 / min(repeat(lambda: a @ b, repeat=8, number=1))


@dataclass(frozen=True)
class LoopBenchmark:
    """Compares the project's training loop with the handwritten one, alternating between them.

    On a CPU the project's loop runs in one process per core with one thread each, on a GPU in one process
    with as many trial threads as a search has. The handwritten
    loop runs in one process with all threads and the fastest number of loader processes.
    """

    work: Workload
    project: ProcessPoolExecutor
    handwritten: ProcessPoolExecutor

    def compare(self, recipe: Recipe) -> Iterator[Result]:
        """Compare the loops on one recipe; on seed-001 also with one core each."""
        candidates = [n for n in (0, 1, 2, 4, 8, 16) if n <= usable_cores()]
        steps = max(10, self.work.handwritten_steps // 2)
        num_workers = max(candidates, key=lambda n: self._handwritten_rate(recipe, steps, n))
        project, handwritten = [], []
        for _ in range(self.work.rounds):
            project.append(self._project_rate(recipe))
            handwritten.append(self._handwritten_rate(recipe, self.work.handwritten_steps, num_workers))
        name = f"handwritten_loop.{recipe.name}"
        note = f"{recipe.name}, {self.work.processes} processes / one with {num_workers} loader processes"
        yield result(f"fit.{recipe.name}.samples_per_second", "images/s", project)
        yield result(f"{name}.samples_per_second", "images/s", handwritten)
        yield ratio_result(f"{name}.ratio", project, handwritten, note)
        if recipe.name == "seed-001":
            yield ratio_result("handwritten_loop.ratio", project, handwritten, note)
            if self.work.device == "cpu":
                yield self._core_ratio(recipe)

    def measure_reference(self, recipe: Recipe) -> Iterator[Result]:
        """Throughput of the reference first, compared if every baseline is, then derived figures."""
        if self.work.all_baselines:
            speed, *comparison = self.compare(recipe)
        else:
            project = [self._project_rate(recipe) for _ in range(self.work.rounds)]
            speed, *comparison = [result(f"fit.{recipe.name}.samples_per_second", "images/s", project)]
        yield from (speed, *comparison)
        rates, processes = (speed.min, speed.median, speed.max), self.work.processes
        n_trials = processes * self.work.trial_threads
        note = f"{EPOCH_IMAGES:,} images, {n_trials} concurrent trials"
        yield result("fit.epoch_seconds", "s", [EPOCH_IMAGES * n_trials / rate for rate in rates], note)
        if self.work.device == "cuda":
            yield from self._measure_gpu(recipe)
        if self.work.device == "cpu":
            peak = sum(self.project.map(matmul_rate, [1024] * processes))
            flops = 3 * recipe.architecture.multiply_adds()  # a step takes three forward passes
            note = f"fp32 peak {2e-9 * peak / processes:.0f} GFLOP/s per core, all cores busy"
            yield result("fit.matmul_percent", "%", [100 * flops * rate / peak for rate in rates], note)

    def _project_rate(self, recipe: Recipe) -> float:
        """Images per second of all concurrent training runs."""
        rate = partial(project_rate, self.work, n_threads=self.work.trial_threads)
        return sum(self.project.map(rate, [recipe] * self.work.processes))

    def _measure_gpu(self, recipe: Recipe) -> Iterator[Result]:
        """One training run alone, and the memory of concurrent ones."""
        alone = [
            self.project.submit(project_rate, self.work, recipe).result() for _ in range(self.work.rounds)
        ]
        yield result(f"fit.{recipe.name}.alone.samples_per_second", "images/s", alone, "one training run")
        n = self.work.trial_threads
        memory = self.project.submit(trial_memory, self.work, recipe, n).result()
        yield result("gpu.memory_per_trial", "MiB", [memory], f"{n} concurrent trials")

    def _handwritten_rate(self, recipe: Recipe, steps: int, num_workers: int) -> float:
        return self.handwritten.submit(handwritten_rate, self.work, recipe, steps, num_workers).result()

    def _core_ratio(self, recipe: Recipe) -> Result:
        """The loops in one process with one thread, one after the other."""
        submit, steps = self.project.submit, self.work.handwritten_steps
        project, handwritten = [], []
        for _ in range(self.work.rounds):
            project.append(submit(project_rate, self.work, recipe).result())
            handwritten.append(submit(handwritten_rate, self.work, recipe, steps, 0).result())
        note = f"{recipe.name}, one thread each, no loader process"
        return ratio_result("handwritten_loop.core_ratio", project, handwritten, note)
