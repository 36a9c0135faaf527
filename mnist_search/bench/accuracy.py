"""Whether the fast path costs accuracy: two seeds' recipes, ours and the plain way, several times.

The plain way is fp32 and torch's own batch norm and dropout; data, augmentation and schedule are
the same. Run one part a core, as often as it takes.

    python -m mnist_search.bench.accuracy train FILE.jsonl --part 0 --parts 2
    python -m mnist_search.bench.accuracy report FILE.jsonl
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import typer

from experiments import SEEDS
from experiments.recipe import Recipe
from mnist_search.bench.images import images
from mnist_search.bench.lines import DataOption, DeviceOption, PartOption, PartsOption, append, read, verbs
from mnist_search.training import files
from mnist_search.training.device import resolve_device, use_one_thread
from mnist_search.training.fit import fit
from mnist_search.training.model import TORCH, build
from mnist_search.training.probe import fastest_way
from mnist_search.training.step import Way

RECIPES = ("seed-001", "seed-000")
LATE = 5
"""Last epochs that are averaged: at a constant learning rate the last one alone is noisy."""


def train(
    out: Path,
    recipe: Annotated[list[str], typer.Option(help="Which seeds' recipes.")] = list(RECIPES),  # noqa: B006
    runs: Annotated[int, typer.Option(min=1, help="Trainings of each, either way.")] = 5,
    part: PartOption = 0,
    parts: PartsOption = 1,
    data_dir: DataOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Train this part of the runs, a line of JSON for each."""
    use_one_thread()
    folder = files.find(data_dir)
    known = {(line["recipe"], line["seed"], line["fast"]) for line in read(out)}
    for number, (seed, name) in enumerate(product(range(runs), recipe)):
        for fast in (True, False):
            if number % parts != part or (name, seed, fast) in known:
                continue
            append(
                out,
                {"recipe": name, "seed": seed, "fast": fast}
                | _run(SEEDS[name], seed, folder, device, fast=fast),
            )


def _run(recipe: Recipe, seed: int, folder: Path, device: str, *, fast: bool) -> dict[str, Any]:
    network = build(recipe.architecture, seed, None if fast else TORCH)
    where = resolve_device(device)
    data, way = images(folder, where.type), fastest_way(where) if fast else Way("fp32", channels_last=False)
    records = list(fit(network, data.train, data.val, recipe.training, seed=seed, way=way))
    last = records[-1]
    return {
        "val_accuracies": [record.val_accuracy for record in records],
        "train_losses": [record.train_loss for record in records],
        "val_accuracy": last.val_accuracy,
        "val_loss": last.val_loss,
        "samples_per_second": last.samples_per_second,
    }


def report(out: Path) -> None:
    """Print accuracies on validation, the fast way and the plain, and their difference."""
    lines = read(out)
    typer.echo("| recipe | validation accuracy | runs | fast, mean (sd) | plain fp32, mean (sd) | difference | "
               "standard error |\n|---|---|--:|--:|--:|--:|--:|")  # fmt: skip
    for name in RECIPES:
        of_recipe = [line for line in lines if line["recipe"] == name]
        _compare(name, "last epoch", of_recipe, lambda line: line["val_accuracy"])
        with_curves = [line for line in of_recipe if "val_accuracies" in line]
        _compare(name, f"mean of the last {LATE}", with_curves, lambda n: mean(n["val_accuracies"][-LATE:]))


def _compare(
    name: str, what: str, lines: Sequence[dict[str, Any]], reading: Callable[[dict[str, Any]], float]
) -> None:
    of = {
        fast: {line["seed"]: 100 * reading(line) for line in lines if line["fast"] is fast}
        for fast in (True, False)
    }
    both = sorted(of[True].keys() & of[False].keys())
    if len(both) < 2:
        return
    ours, plain = ([of[fast][seed] for seed in both] for fast in (True, False))
    error = ((stdev(ours) ** 2 + stdev(plain) ** 2) / len(both)) ** 0.5
    typer.echo(
        f"| {name} | {what} | {len(both)} | {mean(ours):.3f} ({stdev(ours):.3f}) | {mean(plain):.3f} "
        f"({stdev(plain):.3f}) | {mean(ours) - mean(plain):+.3f} | {error:.3f} |"
    )


if __name__ == "__main__":
    verbs(train, report)
