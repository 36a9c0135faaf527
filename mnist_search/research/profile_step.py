"""Profile a training step, and time the project's layers against torch's.

python -m mnist_search.research.profile_step profile seed-001
python -m mnist_search.research.profile_step layers
"""

from __future__ import annotations

import timeit
from collections.abc import Callable
from typing import Annotated

import torch
import typer
from torch import nn
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiler

from experiments import BASELINES
from mnist_search.bench import reference
from mnist_search.data import mnist
from mnist_search.research.jsonl import DataOption, run_commands
from mnist_search.training.cpu_batch_norm import FoldedBatchNorm
from mnist_search.training.device import CPU, select_compute_mode, use_one_thread
from mnist_search.training.dropout import MASKS_PER_BUFFER, BufferedDropout, MaskBuffer
from mnist_search.training.fit import fit
from mnist_search.training.model import build

NETWORKS = BASELINES | {"reference": reference.recipe()}
BATCH = 128
STEPS = 40
MAPS = ((6, 28), (12, 28), (16, 24), (24, 14))
"""Channels and side length of the feature maps."""

CALLS, ROUNDS = MASKS_PER_BUFFER, 3
"""Each round resamples the mask buffer once."""

LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "torch's dropout": lambda _: nn.Dropout(0.1),
    "buffered dropout": lambda _: BufferedDropout(MaskBuffer(0.1)),
    "torch's batch norm": nn.BatchNorm2d,
    "folded batch norm": FoldedBatchNorm,
    "torch's max pool": lambda _: nn.MaxPool2d(2),
    "torch's ReLU": lambda _: nn.ReLU(),
}
"""Constructors by name; their argument is the number of channels."""


def profile(
    network: Annotated[str, typer.Argument(help=f"One of {', '.join(NETWORKS)}.")] = "seed-001",
    data_dir: DataOption = None,
) -> None:
    """Print the operators of 40 training steps on one core, by self time."""
    use_one_thread()
    recipe = NETWORKS[network]
    train = reference.cached_split(mnist.resolve_data_dir(data_dir), "cpu").train[: STEPS * BATCH]
    module = build(recipe.architecture, 0)
    epochs = fit(module, train, None, recipe.training, seed=0, compute_mode=select_compute_mode(CPU))
    next(epochs)
    with profiler(activities=[ProfilerActivity.CPU]) as profiled:
        next(epochs)
    typer.echo(f"torch {torch.__version__}, {network}, one core, {STEPS} steps of {BATCH} images")
    typer.echo(profiled.key_averages().table(sort_by="self_cpu_time_total", row_limit=30))


def layers() -> None:
    """Print milliseconds of forward and backward passes of layers on bf16 channels-last maps, one core."""
    use_one_thread()
    typer.echo("| layer | " + " | ".join(f"({BATCH}, {c}, {side}, {side})" for c, side in MAPS) + " |")
    typer.echo("|---|" + "--:|" * len(MAPS))
    for name, make in LAYERS.items():
        cells = " | ".join(f"{_milliseconds(make(channels), channels, side):.2f}" for channels, side in MAPS)
        typer.echo(f"| {name} | {cells} |")


def _milliseconds(layer: nn.Module, channels: int, side: int) -> float:
    """Forward and backward pass of one batch, the best of some rounds."""
    x = torch.rand(BATCH, channels, side, side, dtype=torch.bfloat16)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    grad = torch.rand_like(layer(x))

    def step() -> None:
        layer(x).backward(grad)

    return 1e3 * min(timeit.repeat(step, number=CALLS, repeat=ROUNDS)) / CALLS


if __name__ == "__main__":
    run_commands(profile, layers)
