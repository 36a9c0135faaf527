"""Figures of a run, drawn without a display."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    import numpy as np


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
