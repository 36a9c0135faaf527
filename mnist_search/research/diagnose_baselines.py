"""Why two seeds miss their claims: their trainings, changed one thing at a time, beside their logs.

A line has the accuracy and loss on augmented training images that an author sees scroll by, and
what the network ends with on plain training images without dropout, in case that was logged.

    python -m mnist_search.research.diagnose_baselines train FILE.jsonl
    python -m mnist_search.research.diagnose_baselines report FILE.jsonl
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
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
from mnist_search.research.jsonl import DataOption, DeviceOption, PartOption, PartsOption, append, read, verbs
from mnist_search.training.device import resolve_device, select_compute_mode, use_one_thread
from mnist_search.training.fit import evaluate, fit
from mnist_search.training.model import build
from search_space import Architecture
from search_space.architecture import Dropout
from search_space.training_config import Augmentation, Step

PLAIN_EPOCHS = 2
"""Of the seeds' own loop, which is slow; seed 000's text has the first two."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A seed's training, perhaps changed; ``by_hand``: in the seeds' own loop, for two epochs."""

    recipe: Recipe
    by_hand: bool = False


def variants() -> dict[str, Variant]:
    """What is trained, by name."""
    zero, three = BASELINES["seed-000"], BASELINES["seed-003"]
    dry = replace(three, architecture=_without_dropout(three.architecture))
    seven = _trained(zero, augmentation=replace(zero.training.augmentation, rotation=7))
    return {
        "seed-000, the seeds' loop": Variant(zero, by_hand=True),
        "seed-000, 7 degrees, the seeds' loop": Variant(seven, by_hand=True),
        "seed-000": Variant(zero),
        "seed-000, 7 degrees": Variant(seven),
        "seed-000, step schedule": Variant(_trained(zero, schedule=Step(6))),
        "seed-003": Variant(three),
        "seed-003, no dropout": Variant(dry),
        "seed-003, no dropout, no augmentation": Variant(_trained(dry, augmentation=Augmentation())),
    }


def _trained(recipe: Recipe, **changes: Any) -> Recipe:
    return replace(recipe, training=replace(recipe.training, **changes))


def _without_dropout(architecture: Architecture) -> Architecture:
    return Architecture(
        tuple(Dropout(0.0) if isinstance(layer, Dropout) else layer for layer in architecture.layers)
    )


def train(
    out: Path,
    part: PartOption = 0,
    parts: PartsOption = 1,
    data_dir: DataOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Train this part of the variants with seed 0 on all 60,000 images, a line of JSON for each."""
    use_one_thread()
    where = resolve_device(device)
    digits, _ = load_train_and_test(mnist.find(data_dir), where)
    known = {line["variant"] for line in read(out)}
    for number, (name, variant) in enumerate(variants().items()):
        if number % parts == part and name not in known:
            append(out, {"variant": name} | came_to(variant, digits))


def came_to(variant: Variant, digits: Digits) -> dict[str, Any]:
    """Accuracy and loss of every epoch on the images that were trained on, and at the end."""
    if variant.by_hand:
        return {"curve": list(_by_hand(variant.recipe, digits))}
    recipe = variant.recipe
    network, compute_mode = build(recipe.architecture, 0), select_compute_mode(digits.images.device)
    curve = [
        {"train_accuracy": record.train_accuracy, "train_loss": record.train_loss}
        for record in fit(network, digits, None, recipe.training, seed=0, compute_mode=compute_mode)
    ]
    judged = evaluate(network, digits)
    return {"curve": curve, "plain_accuracy": judged.accuracy, "plain_loss": judged.loss}


def _by_hand(recipe: Recipe, digits: Digits) -> Iterator[dict[str, float]]:
    torch.manual_seed(0)
    steps: list[tuple[float, float]] = []
    loop = handwritten_loop(
        recipe, digits, 0, lambda *step: steps.append(step), str(digits.images.device), PLAIN_EPOCHS
    )
    per_epoch = len(list(loop)) // PLAIN_EPOCHS
    for end in range(per_epoch, len(steps) + 1, per_epoch):
        losses = [loss for loss, _ in steps[end - per_epoch : end]]
        yield {"train_accuracy": steps[end - 1][1], "train_loss": mean(losses)}


def report(out: Path) -> None:
    """Print the first two epochs and the last, and the judgement on plain images without dropout."""
    typer.echo("| training | epoch 1 | 2 | last | its loss | plain images, no dropout | its loss |\n"
               "|---|--:|--:|--:|--:|--:|--:|")  # fmt: skip
    for line in read(out):
        first, second, *_ = (100 * epoch["train_accuracy"] for epoch in line["curve"])
        last = line["curve"][-1]
        plain = (
            f"{100 * line['plain_accuracy']:.2f} | {line['plain_loss']:.4f}"
            if "plain_loss" in line
            else " | "
        )
        typer.echo(
            f"| {line['variant']} | {first:.2f} | {second:.2f} | {len(line['curve'])}: "
            f"{100 * last['train_accuracy']:.2f} | {last['train_loss']:.4f} | {plain} |"
        )


if __name__ == "__main__":
    verbs(train, report)
