"""Whether the fast path costs accuracy: two seeds' recipes, ours and the plain way, several times.

The plain way is fp32 and torch's own batch norm and dropout; data, augmentation and schedule are
the same. Run one part a core, as often as it takes.

    python -m mnist_search.research.fast_path_accuracy train FILE.jsonl --part 0 --parts 2
    python -m mnist_search.research.fast_path_accuracy report FILE.jsonl
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import typer

from experiments import BASELINES
from experiments.recipe import Recipe
from mnist_search.bench.images import images
from mnist_search.data import mnist
from mnist_search.research.jsonl import DataOption, DeviceOption, PartOption, PartsOption, append, read, verbs
from mnist_search.training.device import ComputeMode, resolve_device, select_compute_mode, use_one_thread
from mnist_search.training.fit import fit
from mnist_search.training.model import REFERENCE_LAYERS, build

RECIPES = ("seed-001", "seed-000")


class How(StrEnum):
    """The fast path or the plain one; a file may have others, of versions that were."""

    FAST = "fast"
    FP32 = "plain"


LATE = 5
"""Last epochs that are averaged: at a constant learning rate the last one alone is noisy."""


def train(
    out: Path,
    recipe: Annotated[list[str], typer.Option(help="Which seeds' recipes.")] = list(RECIPES),  # noqa: B006
    how: Annotated[list[How], typer.Option(help="Which ways.")] = [How.FAST, How.FP32],  # noqa: B006
    runs: Annotated[int, typer.Option(min=1, help="Trainings of each, every way.")] = 5,
    part: PartOption = 0,
    parts: PartsOption = 1,
    data_dir: DataOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Train this part of the runs, a line of JSON for each."""
    use_one_thread()
    folder = mnist.find(data_dir)
    known = {(line["recipe"], line["seed"], line["how"]) for line in read(out)}
    for number, (seed, name) in enumerate(product(range(runs), recipe)):
        for each in how:
            if number % parts != part or (name, seed, each) in known:
                continue
            what = {"recipe": name, "seed": seed, "how": each}
            append(out, what | _run(BASELINES[name], seed, folder, device, each))


def _run(recipe: Recipe, seed: int, folder: Path, device: str, how: How) -> dict[str, Any]:
    where = resolve_device(device)
    fast = how is How.FAST
    network = build(recipe.architecture, seed, None if fast else REFERENCE_LAYERS)
    compute_mode = select_compute_mode(where) if fast else ComputeMode("fp32", channels_last=False)
    data = images(folder, where.type)
    records = list(fit(network, data.train, data.val, recipe.training, seed=seed, compute_mode=compute_mode))
    last = records[-1]
    return {
        "val_accuracies": [record.val_accuracy for record in records],
        "train_losses": [record.train_loss for record in records],
        "val_accuracy": last.val_accuracy,
        "val_loss": last.val_loss,
        "samples_per_second": last.samples_per_second,
    }


def report(out: Path) -> None:
    """Print accuracies on validation, every way and the plain one, and their difference."""
    lines = read(out)
    typer.echo("| recipe | how | reading | runs | mean (sd) | plain fp32, mean (sd) | difference | "
               "standard error |\n|---|---|---|--:|--:|--:|--:|--:|")  # fmt: skip
    compute_modes = dict.fromkeys(line["how"] for line in lines if line["how"] != How.FP32)
    for name, how in product(RECIPES, compute_modes):
        pair = [line for line in lines if line["recipe"] == name and line["how"] in (how, How.FP32)]
        _compare(name, how, "accuracy, last epoch", pair, lambda line: 100 * line["val_accuracy"])
        _compare(name, how, "loss, last epoch", pair, lambda line: line["val_loss"])
        curves = [line for line in pair if "val_accuracies" in line]
        _compare(
            name, how, f"accuracy, last {LATE}", curves, lambda n: 100 * mean(n["val_accuracies"][-LATE:])
        )


def _compare(
    name: str,
    how: str,
    what: str,
    lines: Sequence[dict[str, Any]],
    reading: Callable[[dict[str, Any]], float],
) -> None:
    of = {
        each: {line["seed"]: reading(line) for line in lines if line["how"] == each}
        for each in (how, How.FP32)
    }
    both = sorted(of[how].keys() & of[How.FP32].keys())
    if len(both) < 2:
        return
    ours, plain = ([of[each][seed] for seed in both] for each in (how, How.FP32))
    error = ((stdev(ours) ** 2 + stdev(plain) ** 2) / len(both)) ** 0.5
    digits = 3 if mean(plain) > 1 else 5
    means = " | ".join(f"{mean(values):.{digits}f} ({stdev(values):.{digits}f})" for values in (ours, plain))
    typer.echo(
        f"| {name} | {how} | {what} | {len(both)} | {means} | {mean(ours) - mean(plain):+.{digits}f} | "
        f"{error:.{digits}f} |"
    )


if __name__ == "__main__":
    verbs(train, report)
