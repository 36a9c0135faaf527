"""Measure one GPU: throughput of concurrent trials, kernels of a step, accuracy of compute modes.

    python -m mnist_search.research.measure_gpu throughput --threads 1,4,8,12,16
    python -m mnist_search.research.measure_gpu kernels
    python -m mnist_search.research.measure_gpu accuracy FILE.jsonl

``measure_gpu.sh`` runs these, the GPU tests and two searches.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import torch
import typer
from torch.profiler import ProfilerActivity, profile

from mnist_search.bench.reference import cached_split, recipe
from mnist_search.data import mnist
from mnist_search.process_env import set_defaults
from mnist_search.research import jsonl
from mnist_search.training import steps
from mnist_search.training.device import ComputeMode, own_stream, resolve_device, select_compute_mode
from mnist_search.training.fit import fit
from mnist_search.training.model import build, with_padded_widths
from mnist_search.training.step import TrainStep
from search_space.training_config import OneCycle

DEVICE = "cuda"
set_defaults()  # CUDA_DEVICE_MAX_CONNECTIONS


def throughput(
    threads: Annotated[str, typer.Option(help="Numbers of concurrent trials.")] = "1,4,8,12,16",
    epochs: Annotated[int, typer.Option(min=4, help="Epochs of each; the first two are not counted.")] = 6,
    steps_per_graph: Annotated[int, typer.Option(min=1)] = steps.STEPS_PER_GRAPH,
    batch_size: Annotated[int, typer.Option(min=2)] = 128,
    padded: Annotated[bool, typer.Option()] = True,
    data_dir: jsonl.DataOption = None,
) -> None:
    """Print images/s of concurrent trials of the reference, evaluation after every epoch included."""
    steps.STEPS_PER_GRAPH = steps_per_graph
    mode = replace(select_compute_mode(torch.device(DEVICE)), padded=padded)
    cached_split(mnist.resolve_data_dir(data_dir), DEVICE)
    for n in map(int, threads.split(",")):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        ends: list[list[float]] = [[] for _ in range(n)]
        barrier = threading.Barrier(n)
        run = partial(_train_epochs, mnist.resolve_data_dir(data_dir), mode, epochs, batch_size, barrier)
        with ThreadPoolExecutor(n) as pool:
            list(pool.map(run, ends))
        start, end = max(e[1] for e in ends), min(e[-1] for e in ends)
        # Epochs overlap the window's borders: count their share.
        rate = sum(epochs_within(e, start, end) for e in ends) * 50_000 / (end - start)
        memory = torch.cuda.max_memory_allocated() / 2**20
        first = max(e[0] for e in ends)
        typer.echo(
            f"{n:2} trials, batch {batch_size}, {steps_per_graph:2} steps per graph, {mode}: {rate:9,.0f} images/s, "
            f"{50_000 * n / rate:.3f} s an epoch each, first epoch {first:.1f} s, {memory / n:,.0f} MiB per trial"
        )


def _train_epochs(
    data_dir: Path,
    mode: ComputeMode,
    epochs: int,
    batch_size: int,
    barrier: threading.Barrier,
    ends: list[float],
) -> None:
    data, reference = cached_split(data_dir, DEVICE), recipe()
    training = replace(
        reference.training, epochs=epochs, batch_size=batch_size, schedule=OneCycle(cycle_momentum=False)
    )
    network = build(reference.architecture, 0)
    barrier.wait()
    started = time.perf_counter()
    with own_stream(torch.device(DEVICE)):
        trained = fit(network, data.train, data.val, training, seed=0, compute_mode=mode)
        ends.extend(time.perf_counter() - started for _ in trained)


def epochs_within(ends: list[float], start: float, end: float) -> float:
    """Number of epochs between two times, the parts of epochs included."""
    spans = zip([0.0, *ends], ends, strict=False)
    return sum(max(0.0, min(b, end) - max(a, start)) / (b - a) for a, b in spans)


def kernels(padded: bool = True, rows: int = 45, data_dir: jsonl.DataOption = None) -> None:
    """Print the kernels of one eager step of the reference by GPU time."""
    mode = select_compute_mode(torch.device(DEVICE))
    data, reference = cached_split(mnist.resolve_data_dir(data_dir), DEVICE), recipe()
    network = build(reference.architecture, 0)
    network = (
        (with_padded_widths(network) if padded else network).cuda().to(memory_format=torch.channels_last)
    )
    step = TrainStep(network.train(), data.train, reference.training, mode)
    batch = torch.arange(128, device=DEVICE)
    maps = step.augmentation.draw(128, torch.Generator(DEVICE)) if step.augmentation else None
    for _ in range(5):
        step(batch, maps)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        step(batch, maps)
        torch.cuda.synchronize()
    events = [e for e in profiled.key_averages() if e.self_device_time_total > 0]
    n, total = sum(e.count for e in events), sum(e.self_device_time_total for e in events)
    typer.echo(f"{n} kernels, {total:.0f} us")
    for event in sorted(events, key=lambda e: -e.self_device_time_total)[:rows]:
        typer.echo(f"{event.count:4} {event.self_device_time_total:7.1f} us  {event.key[:120]}")


VARIANTS: dict[str, tuple[ComputeMode | None, OneCycle]] = {
    "default": (None, OneCycle(cycle_momentum=False)),
    "fp32 eager": (ComputeMode("fp32"), OneCycle(cycle_momentum=False)),
    "cycled momentum": (None, OneCycle()),
}
"""Compute mode (None for the default) and schedule by name."""


def accuracy(
    out: Path,
    variant: Annotated[list[str], typer.Option()] = list(VARIANTS),  # noqa: B006
    seeds: Annotated[int, typer.Option(min=2)] = 40,
    epochs: Annotated[int, typer.Option(min=1)] = 5,
    images: Annotated[int, typer.Option(min=1000)] = 50_000,
    workers: Annotated[int, typer.Option(min=1)] = 14,
    data_dir: jsonl.DataOption = None,
) -> None:
    """Train the reference with paired seeds in every variant; writes a JSON line per training, prints differences."""
    folder = mnist.resolve_data_dir(data_dir)
    for name in variant:
        # Eager steps are bound by Python, so they run in processes.
        has_graph = name == "default"
        pool: Executor = (
            ThreadPoolExecutor(min(12, seeds))
            if has_graph
            else ProcessPoolExecutor(min(workers, seeds), multiprocessing.get_context("spawn"))
        )
        with pool:
            for line in pool.map(partial(_train, folder, name, epochs, images), range(seeds)):
                jsonl.append(out, line)
    lines = jsonl.read(out)
    keys = {"epochs": epochs, "images": images}
    scores = {
        name: {
            line["seed"]: 100 * line["val_accuracy"]
            for line in lines
            if line["variant"] == name and keys.items() <= line.items()
        }
        for name in VARIANTS
    }
    for name, values in scores.items():
        if len(values) > 1:
            typer.echo(
                f"{name}: {mean(values.values()):.3f} % (sd {stdev(values.values()):.3f}), {len(values)} seeds"
            )
        if name != "default" and len(values) > 1:
            differences = [
                scores["default"][seed] - value for seed, value in values.items() if seed in scores["default"]
            ]
            error = stdev(differences) / len(differences) ** 0.5
            typer.echo(f"  default - {name}: {mean(differences):+.3f} points, standard error {error:.3f}")


def _train(data_dir: Path, variant: str, epochs: int, images: int, seed: int) -> dict[str, Any]:
    mode, schedule = VARIANTS[variant]
    device, reference = resolve_device(DEVICE), recipe()
    data = cached_split(data_dir, DEVICE)
    training = replace(reference.training, epochs=epochs, schedule=schedule)
    network = build(reference.architecture, seed)
    mode = mode or select_compute_mode(device)
    with own_stream(device):
        *_, last = fit(network, data.train[:images], data.val, training, seed=seed, compute_mode=mode)
    return {
        "variant": variant, "seed": seed, "epochs": epochs, "images": images, "mode": str(mode),
        "val_accuracy": last.val_accuracy, "val_loss": last.val_loss,
    }  # fmt: skip


if __name__ == "__main__":
    jsonl.run_commands(throughput, kernels, accuracy)
