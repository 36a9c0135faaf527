"""Figures of a run, drawn without a display."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    import numpy as np

    from mnist_search.records import EpochMetrics


def learning_curve(curve: Sequence[EpochMetrics], title: str) -> Figure:
    """Training and validation loss and error by epoch."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    epochs = [metrics.epoch for metrics in curve]
    left, right = figure.subplots(1, 2)
    rows = [metrics.to_dict() for metrics in curve]
    for name in ("train", "val"):
        left.plot(epochs, [row.get(f"{name}_loss", nan) for row in rows], marker="o", ms=3, label=name)
        errors = [100 * (1 - row.get(f"{name}_accuracy", nan)) for row in rows]
        right.plot(epochs, errors, marker="o", ms=3, label=name)
    for axes, label in ((left, "cross-entropy"), (right, "error, %")):
        axes.set(xlabel="epoch", ylabel=label, yscale="log")
        axes.grid(alpha=0.3, which="both")
        axes.legend()
    figure.suptitle(title)
    return figure


def confusion(matrix: np.ndarray, title: str) -> Figure:
    """Counts by true and predicted digit, (10, 10); the color shows the errors only."""
    figure = Figure(figsize=(5.5, 5), layout="constrained")
    axes = figure.subplots()
    errors = matrix.copy()
    errors[range(10), range(10)] = 0
    axes.imshow(errors, cmap="Reds", vmax=1.6 * max(1, errors.max()))  # dark text stays readable
    for true, predicted in zip(*matrix.nonzero(), strict=True):
        axes.text(predicted, true, str(matrix[true, predicted]), ha="center", va="center", fontsize=8)
    axes.set(xlabel="predicted digit", ylabel="true digit", xticks=range(10), yticks=range(10), title=title)
    return figure
