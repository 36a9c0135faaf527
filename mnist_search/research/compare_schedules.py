"""Compare learning-rate schedules by paired training runs of the default template.

Variants of the default training configuration are trained with the same seeds: with and without cycled
momentum, and with the restarts of screening. Run one process per core.

    python -m mnist_search.research.compare_schedules train FILE.jsonl --part 0 --parts 2
    python -m mnist_search.research.compare_schedules report FILE.jsonl
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import typer
from scipy.stats import sem, t

from experiments import StudyConfig
from experiments.study_config import rungs
from mnist_search.data import mnist
from mnist_search.data.dataset import Split, load_split
from mnist_search.research import jsonl
from mnist_search.search.warm_start import known_templates
from mnist_search.training.device import resolve_device, select_compute_mode
from mnist_search.training.fit import fit
from mnist_search.training.model import build
from search_space import TrainingConfig, TrialConfig
from search_space.training_config import OneCycle

BUDGET, VAL_IMAGES = 8000, 10_000
REFERENCE = "one cycle"


def variants(training: TrainingConfig) -> dict[str, TrainingConfig]:
    """The compared training configurations by name."""
    return {
        REFERENCE: training,
        "one cycle with cycled momentum": replace(training, schedule=OneCycle()),
        "one cycle with restarts": replace(training, restarts=rungs(training.epochs)[:-1]),
    }


def train(
    out: Path,
    seeds: Annotated[int, typer.Option(min=2)] = 10,
    train_images: Annotated[int, typer.Option(min=1000, help="One number per file.")] = 10_000,
    part: jsonl.PartOption = 0,
    parts: jsonl.PartsOption = 1,
    data_dir: jsonl.DataOption = None,
    device: jsonl.DeviceOption = "auto",
) -> None:
    """Train one part of the runs; writes a JSON line per training run."""
    jsonl.run_part(out, _tasks(seeds, train_images, data_dir, device), part, parts)


def _tasks(seeds: int, train_images: int, data_dir: Path | None, device: str) -> Iterator[jsonl.Task]:
    data = load_split(mnist.resolve_data_dir(data_dir), train_images, VAL_IMAGES, 0, resolve_device(device))
    study_config = StudyConfig.for_budget(BUDGET)
    config = study_config.space.decode(known_templates(study_config)[0])
    for seed in range(seeds):
        for name, training in variants(config.training).items():
            yield (
                {"variant": name, "seed": seed},
                partial(_train, replace(config, training=training), seed, data),
            )


def _train(config: TrialConfig, seed: int, data: Split) -> dict[str, Any]:
    network, compute_mode = build(config.architecture, seed), select_compute_mode(data.train.images.device)
    curve = list(fit(network, data.train, data.val, config.training, seed=seed, compute_mode=compute_mode))
    return {"val_accuracies": [e.val_accuracy for e in curve], "val_losses": [e.val_loss for e in curve]}


def report(out: Path) -> None:
    """Print the validation accuracy of every variant, and its difference from the reference."""
    runs: dict[str, dict[int, float]] = {}
    for line in jsonl.read(out):
        runs.setdefault(line["variant"], {})[line["seed"]] = 100 * line["val_accuracies"][-1]
    typer.echo("| schedule | seeds | accuracy, mean (sd) | difference | 95 % interval |")
    typer.echo("|---|--:|--:|--:|--:|")
    for name, accuracies in runs.items():
        values = list(accuracies.values())
        row = f"| {name} | {len(values)} | {mean(values):.3f} ({stdev(values):.3f}) |"
        pairs = [
            value - runs[REFERENCE][seed] for seed, value in accuracies.items() if seed in runs[REFERENCE]
        ]
        if name != REFERENCE and len(pairs) > 1:
            low, high = t.interval(0.95, len(pairs) - 1, mean(pairs), sem(pairs))
            row += f" {mean(pairs):+.3f} | {low:+.3f} to {high:+.3f} |"
        typer.echo(row)


if __name__ == "__main__":
    jsonl.run_commands(train, report)
