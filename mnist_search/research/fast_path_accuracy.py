"""Measure whether the fast path costs accuracy, on the recipes of two baselines.

The fast path is the project's default. The plain path is fp32 with torch's batch norm and dropout;
data, augmentation and schedule are the same. Run one process per core.

    python -m mnist_search.research.fast_path_accuracy train FILE.jsonl --part 0 --parts 2
    python -m mnist_search.research.fast_path_accuracy report FILE.jsonl
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import typer

from experiments import BASELINES
from experiments.recipe import Recipe
from mnist_search.bench.reference import cached_split
from mnist_search.data import mnist
from mnist_search.research import jsonl
from mnist_search.training.device import ComputeMode, resolve_device, select_compute_mode
from mnist_search.training.fit import fit
from mnist_search.training.model import REFERENCE_LAYERS, build

RECIPES = ["seed-001", "seed-000"]


class ComputePath(StrEnum):
    """How training is computed; a file may have other names, of earlier versions."""

    FAST = "fast"
    PLAIN = "plain"


LAST_EPOCHS = 5
"""Number of epochs to average, since at a constant learning rate a single epoch is noisy."""


def train(
    out: Path,
    recipe: Annotated[list[str], typer.Option(help="Baselines to train.")] = RECIPES,
    path: Annotated[list[ComputePath], typer.Option(help="Compute paths.")] = list(ComputePath),  # noqa: B006
    runs: Annotated[int, typer.Option(min=1, help="Training runs per recipe and path.")] = 5,
    part: jsonl.PartOption = 0,
    parts: jsonl.PartsOption = 1,
    data_dir: jsonl.DataOption = None,
    device: jsonl.DeviceOption = "auto",
) -> None:
    """Train one part of the runs; writes a JSON line per training."""
    jsonl.run_part(out, _tasks(recipe, path, runs, mnist.resolve_data_dir(data_dir), device), part, parts)


def _tasks(
    recipes: Sequence[str], paths: Sequence[ComputePath], runs: int, data_dir: Path, device: str
) -> Iterator[jsonl.Task]:
    for seed, name, path in product(range(runs), recipes, paths):
        key = {"recipe": name, "seed": seed, "how": path}
        yield key, partial(_train, BASELINES[name], seed, data_dir, device, path)


def _train(recipe: Recipe, seed: int, data_dir: Path, device_name: str, path: ComputePath) -> dict[str, Any]:
    device = resolve_device(device_name)
    fast = path is ComputePath.FAST
    network = build(recipe.architecture, seed, None if fast else REFERENCE_LAYERS)
    compute_mode = select_compute_mode(device) if fast else ComputeMode("fp32", channels_last=False)
    data = cached_split(data_dir, device.type)
    curve = list(fit(network, data.train, data.val, recipe.training, seed=seed, compute_mode=compute_mode))
    return {
        "val_accuracies": [epoch.val_accuracy for epoch in curve],
        "train_losses": [epoch.train_loss for epoch in curve],
        "val_accuracy": curve[-1].val_accuracy,
        "val_loss": curve[-1].val_loss,
        "samples_per_second": curve[-1].samples_per_second,
    }


def report(out: Path) -> None:
    """Print the validation metrics of every path, of the plain one, and their difference."""
    lines = jsonl.read(out)
    typer.echo("| recipe | path | metric | runs | mean (sd) | plain fp32, mean (sd) | difference | "
               "standard error |\n|---|---|---|--:|--:|--:|--:|--:|")  # fmt: skip
    paths = dict.fromkeys(line["how"] for line in lines if line["how"] != ComputePath.PLAIN)
    for name, path in product(RECIPES, paths):
        pair = [line for line in lines if line["recipe"] == name and line["how"] in (path, ComputePath.PLAIN)]
        curves = [line for line in pair if "val_accuracies" in line]
        _print_comparison((name, path, "accuracy, last epoch"), pair, lambda line: 100 * line["val_accuracy"])
        _print_comparison((name, path, "loss, last epoch"), pair, lambda line: line["val_loss"])
        last = f"accuracy, last {LAST_EPOCHS}"
        _print_comparison(
            (name, path, last), curves, lambda n: 100 * mean(n["val_accuracies"][-LAST_EPOCHS:])
        )


def _print_comparison(
    labels: tuple[str, str, str], lines: Sequence[dict[str, Any]], value: Callable[[dict[str, Any]], float]
) -> None:
    """Print one row for the seeds that both paths were trained with, if there are at least two."""
    other, plain = (
        {line["seed"]: value(line) for line in lines if line["how"] == path}
        for path in (labels[1], ComputePath.PLAIN)
    )
    seeds = sorted(other.keys() & plain.keys())
    if len(seeds) < 2:
        return
    a, b = ([values[seed] for seed in seeds] for values in (other, plain))
    error = ((stdev(a) ** 2 + stdev(b) ** 2) / len(seeds)) ** 0.5
    digits = 3 if mean(b) > 1 else 5
    means = " | ".join(f"{mean(values):.{digits}f} ({stdev(values):.{digits}f})" for values in (a, b))
    typer.echo(
        f"| {' | '.join(labels)} | {len(seeds)} | {means} | {mean(a) - mean(b):+.{digits}f} | {error:.{digits}f} |"
    )


if __name__ == "__main__":
    jsonl.run_commands(train, report)
