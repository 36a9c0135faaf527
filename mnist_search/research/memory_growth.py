"""Measure whether a worker's memory grows over many trials.

python -m mnist_search.research.memory_growth --trials 200
python -m mnist_search.research.memory_growth --trials 200 --no-mlflow
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from mnist_search.bench.measurement import Workload
from mnist_search.bench.studies import timed_study
from mnist_search.data import mnist
from mnist_search.process_env import set_defaults
from mnist_search.research.jsonl import DataOption


def main(
    trials: Annotated[int, typer.Option(min=10)] = 200,
    mlflow: Annotated[bool, typer.Option(help="Log the trials to MLflow.")] = True,
    keep_models: Annotated[int, typer.Option(min=0, help="Number of models to keep.")] = 5,
    data_dir: DataOption = None,
) -> None:
    """Train the reference network on few images in one worker, and print the worker's memory."""
    set_defaults()
    work = Workload(
        data_dir=mnist.resolve_data_dir(data_dir), device="cpu", epochs=2, train_images=1000, val_images=1000,
        keep_models=keep_models, mlflow=mlflow,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="mnist-search-bench-") as folder:
        reporter = timed_study(work, Path(folder), jobs=1, trials=trials)
    typer.echo("| after trial | MiB |\n|--:|--:|")
    for number in sorted({1, 5, *range(trials // 10, trials + 1, trials // 10)}):
        typer.echo(f"| {number} | {reporter.memory[number - 1]:.0f} |")


if __name__ == "__main__":
    typer.run(main)
