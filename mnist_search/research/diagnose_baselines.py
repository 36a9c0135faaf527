"""Find out why two baselines miss their reported accuracy: change one setting at a time.

The training runs are compared with those logged in the texts of the baselines. A line has accuracy and
loss on the augmented training images, and on plain ones without dropout at the end, since an
author may have logged either.

    python -m mnist_search.research.diagnose_baselines train FILE.jsonl
    python -m mnist_search.research.diagnose_baselines report FILE.jsonl
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import typer

from experiments import BASELINES
from experiments.recipe import Recipe
from mnist_search.bench.handwritten_loop import handwritten_loop
from mnist_search.data import mnist
from mnist_search.data.dataset import Digits, load_train_and_test
from mnist_search.research import jsonl
from mnist_search.training.device import resolve_device, select_compute_mode
from mnist_search.training.evaluate import evaluate
from mnist_search.training.fit import fit
from mnist_search.training.model import build
from search_space import Architecture
from search_space.architecture import Dropout
from search_space.training_config import Augmentation, Step

HANDWRITTEN_EPOCHS = 2
"""Epochs of the handwritten loop, which is slow; the text of seed-000 has the first two."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A baseline, perhaps with a setting changed; ``handwritten`` selects the handwritten loop."""

    recipe: Recipe
    handwritten: bool = False


def variants() -> dict[str, Variant]:
    """The variants by name; the names are those in ``experiments/measured/claims.jsonl``."""
    zero, three = BASELINES["seed-000"], BASELINES["seed-003"]
    no_dropout = replace(three, architecture=_without_dropout(three.architecture))
    seven_degrees = _changed(zero, augmentation=replace(zero.training.augmentation, rotation=7))
    return {
        "seed-000, the seeds' loop": Variant(zero, handwritten=True),
        "seed-000, 7 degrees, the seeds' loop": Variant(seven_degrees, handwritten=True),
        "seed-000": Variant(zero),
        "seed-000, 7 degrees": Variant(seven_degrees),
        "seed-000, step schedule": Variant(_changed(zero, schedule=Step(6))),
        "seed-003": Variant(three),
        "seed-003, no dropout": Variant(no_dropout),
        "seed-003, no dropout, no augmentation": Variant(_changed(no_dropout, augmentation=Augmentation())),
    }


def _changed(recipe: Recipe, **changes: Any) -> Recipe:
    return replace(recipe, training=replace(recipe.training, **changes))


def _without_dropout(architecture: Architecture) -> Architecture:
    return Architecture(
        tuple(Dropout(0.0) if isinstance(layer, Dropout) else layer for layer in architecture.layers)
    )


def train(
    out: Path,
    part: jsonl.PartOption = 0,
    parts: jsonl.PartsOption = 1,
    data_dir: jsonl.DataOption = None,
    device: jsonl.DeviceOption = "auto",
) -> None:
    """Train one part of the variants with seed 0 on all 60,000 images; writes a JSON line per variant."""
    jsonl.run_part(out, _tasks(data_dir, device), part, parts)


def _tasks(data_dir: Path | None, device: str) -> Iterator[jsonl.Task]:
    digits, _ = load_train_and_test(mnist.resolve_data_dir(data_dir), resolve_device(device))
    for name, variant in variants().items():
        yield {"variant": name}, partial(run_variant, variant, digits)


def run_variant(variant: Variant, digits: Digits) -> dict[str, Any]:
    """Train a variant; accuracy and loss on its training images in every epoch and at the end."""
    recipe = variant.recipe
    if variant.handwritten:
        return {"curve": list(_handwritten_curve(recipe, digits))}
    network, compute_mode = build(recipe.architecture, 0), select_compute_mode(digits.images.device)
    curve = [
        {"train_accuracy": epoch.train_accuracy, "train_loss": epoch.train_loss}
        for epoch in fit(network, digits, None, recipe.training, seed=0, compute_mode=compute_mode)
    ]
    evaluation = evaluate(network, digits)
    return {"curve": curve, "plain_accuracy": evaluation.accuracy, "plain_loss": evaluation.loss}


def _handwritten_curve(recipe: Recipe, digits: Digits) -> Iterator[dict[str, float]]:
    torch.manual_seed(0)
    steps = list(handwritten_loop(recipe, digits, 0, str(digits.images.device), HANDWRITTEN_EPOCHS))
    per_epoch = len(steps) // HANDWRITTEN_EPOCHS
    for end in range(per_epoch, len(steps) + 1, per_epoch):
        losses = [loss for _, loss, _ in steps[end - per_epoch : end]]
        yield {"train_accuracy": steps[end - 1][2], "train_loss": mean(losses)}


def report(out: Path) -> None:
    """Print the first two epochs, the last one, and the evaluation on plain images without dropout."""
    typer.echo("| training | epoch 1 | 2 | last | its loss | plain images, no dropout | its loss |\n"
               "|---|--:|--:|--:|--:|--:|--:|")  # fmt: skip
    for line in jsonl.read(out):
        first, second, *_ = (100 * epoch["train_accuracy"] for epoch in line["curve"])
        last = line["curve"][-1]
        plain = " | "
        if "plain_loss" in line:
            plain = f"{100 * line['plain_accuracy']:.2f} | {line['plain_loss']:.4f}"
        typer.echo(
            f"| {line['variant']} | {first:.2f} | {second:.2f} | {len(line['curve'])}: "
            f"{100 * last['train_accuracy']:.2f} | {last['train_loss']:.4f} | {plain} |"
        )


if __name__ == "__main__":
    jsonl.run_commands(train, report)
