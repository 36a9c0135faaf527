"""Pictures for a run, drawn without a display."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    import numpy as np

    from mnist_search.records import EpochMetrics


def learning_curve(curve: Sequence[EpochMetrics], title: str) -> Figure:
    """Loss and error of training and validation, by epoch."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    epochs = [record["epoch"] for record in curve]
    left, right = figure.subplots(1, 2)
    for name in ("train", "val"):
        left.plot(epochs, [r[f"{name}_loss"] for r in curve], marker="o", ms=3, label=name)
        errors = [100 * (1 - r[f"{name}_accuracy"]) for r in curve]
        right.plot(epochs, errors, marker="o", ms=3, label=name)
    for axes, label in ((left, "cross-entropy"), (right, "error, %")):
        axes.set(xlabel="epoch", ylabel=label, yscale="log")
        axes.grid(alpha=0.3, which="both")
        axes.legend()
    figure.suptitle(title)
    return figure


def confusion(matrix: np.ndarray, title: str) -> Figure:
    """Counts by true digit and run_cli; shades show the mistakes only."""
    figure = Figure(figsize=(5.5, 5), layout="constrained")
    axes = figure.subplots()
    mistakes = matrix.copy()
    mistakes[range(10), range(10)] = 0
    axes.imshow(mistakes, cmap="Reds", vmax=1.6 * max(1, mistakes.max()))  # dark text stays readable
    for (true, run_cli), count in ((index, matrix[index]) for index in zip(*matrix.nonzero(), strict=True)):
        axes.text(run_cli, true, str(count), ha="center", va="center", fontsize=8)
    axes.set(xlabel="run_cli", ylabel="true digit", xticks=range(10), yticks=range(10), title=title)
    return figure
