"""Whether the fast path costs accuracy: two seeds' recipes, ours and the plain way, several times.

The plain way is fp32 and torch's own batch norm and dropout; data, augmentation and schedule are
the same. Run one part a core, as often as it takes.

    python -m mnist_search.bench.accuracy train FILE.jsonl --part 0 --parts 2
    python -m mnist_search.bench.accuracy report FILE.jsonl
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import typer

from experiments import SEEDS
from experiments.recipe import Recipe
from mnist_search.bench.images import images
from mnist_search.bench.lines import DataOption, DeviceOption, PartOption, PartsOption, append, read
from mnist_search.training import files
from mnist_search.training.device import resolve_device, use_one_thread
from mnist_search.training.fit import fit
from mnist_search.training.model import TORCH, build
from mnist_search.training.probe import fastest_way
from mnist_search.training.step import Way

RECIPES = ("seed-001", "seed-000")
RUNS = 5


def train(
    out: Path,
    part: PartOption = 0,
    parts: PartsOption = 1,
    data_dir: DataOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Train this part of the runs, a line of JSON for each."""
    use_one_thread()
    folder = files.find(data_dir)
    known = {(line["recipe"], line["seed"], line["fast"]) for line in read(out)}
    for number, (seed, name) in enumerate(product(range(RUNS), RECIPES)):
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
    *_, last = fit(network, data.train, data.val, recipe.training, seed=seed, way=way)
    return {
        "val_accuracy": last.val_accuracy,
        "val_loss": last.val_loss,
        "samples_per_second": last.samples_per_second,
    }


def report(out: Path) -> None:
    """Print mean and standard deviation of the last epoch's validation accuracy, and the difference."""
    lines = read(out)
    typer.echo("| recipe | runs | fast, mean (sd) | plain fp32, mean (sd) | difference | standard error |")
    typer.echo("|---|--:|--:|--:|--:|--:|")
    for name in RECIPES:
        of = {
            fast: {
                n["seed"]: 100 * n["val_accuracy"] for n in lines if n["recipe"] == name and n["fast"] is fast
            }
            for fast in (True, False)
        }
        both = sorted(of[True].keys() & of[False].keys())
        ours, plain = ([of[fast][seed] for seed in both] for fast in (True, False))
        error = ((stdev(ours) ** 2 + stdev(plain) ** 2) / len(both)) ** 0.5
        typer.echo(
            f"| {name} | {len(both)} | {mean(ours):.3f} ({stdev(ours):.3f}) | {mean(plain):.3f} "
            f"({stdev(plain):.3f}) | {mean(ours) - mean(plain):+.3f} | {error:.3f} |"
        )


if __name__ == "__main__":
    app = typer.Typer()
    app.command()(train)
    app.command()(report)
    app()
