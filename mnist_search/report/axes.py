"""Axes of figures: accuracies by the logarithm of the error, and numbers of parameters."""

from collections.abc import Sequence
from math import ceil, floor, log10
from typing import Any

TICKS = (0, 50, 70, 80, 90, 95, 97, 98, 98.5, 99, 99.2, 99.3, 99.4, 99.5, 99.6, 99.7, 99.8, 99.9, 99.95)
LOWEST_ERROR = 0.01
"""In percent: one of 10,000 images, because 0 has no logarithm."""

MAX_TICKS = 16


def error(accuracy: float) -> float:
    """The error in percent, at least ``LOWEST_ERROR``."""
    return max(100 * (1 - accuracy), LOWEST_ERROR)


SHOWN_SHARE = 0.9
"""Share of the points that an axis shows, the highest ones."""


def accuracy_axis(
    title: str,
    accuracies: Sequence[float],
    lowest: float = 0.98,
    highest: float = 0.998,
    others: Sequence[float] = (),
) -> dict[str, Any]:
    """A plotly axis for values of ``error``; higher is more accurate.

    It shows at least ``lowest`` to ``highest``, the best of ``accuracies`` and twice its error, and
    ``SHOWN_SHARE`` of the ``others``. A double click shows this range again, *Autoscale* shows every point.
    """
    best = error(max(accuracies, default=highest))
    ordered = sorted(map(error, others))
    shown = ordered[: ceil(SHOWN_SHARE * len(ordered))]
    worst = max([error(lowest), 2 * best, *(1.05 * each for each in shown[-1:])])
    errors = min(100, worst), min(error(highest), 0.8 * best)
    ticks = accuracy_ticks(*errors)
    return {
        "title": title,
        "type": "log",
        "range": [log10(each) for each in errors],
        "tickvals": [100 - tick for tick in ticks],
        "ticktext": [f"{tick:g} %" for tick in ticks],
    }


def add_note_of_hidden_points(figure: Any, accuracies: Sequence[float]) -> None:
    """Add a note to a figure whose axis leaves out some of its points."""
    limit = 10 ** figure.layout.yaxis.range[0]
    hidden = sum(error(accuracy) > limit for accuracy in accuracies)
    if hidden:
        text = f"{hidden} point{'' if hidden == 1 else 's'} below {100 - limit:.3g} % not shown; Autoscale shows all"
        place = {"x": 1, "y": 0, "xref": "paper", "yref": "paper", "xanchor": "right", "yanchor": "bottom"}
        figure.add_annotation(**place, text=text, showarrow=False, font={"color": "#555", "size": 11})


def accuracy_ticks(highest: float, lowest: float) -> list[float]:
    """Accuracies in percent between two errors, with distances at which their labels do not overlap."""
    distance = log10(highest / lowest) / MAX_TICKS
    ticks: list[float] = []
    for tick in reversed([tick for tick in TICKS if lowest <= 100 - tick <= highest]):
        if not ticks or log10((100 - tick) / (100 - ticks[-1])) >= distance:
            ticks.append(tick)
    return ticks


def error_points(accuracies: Sequence[float]) -> dict[str, Any]:
    """The ordinates of a trace, and the accuracies in percent for ``%{customdata}`` in a hover text."""
    return {
        "y": [error(accuracy) for accuracy in accuracies],
        "customdata": [100 * accuracy for accuracy in accuracies],
    }


def parameter_ticks(low: float, high: float) -> list[int]:
    """Round numbers of parameters between two, for a log scale."""
    if high > 3 * low:
        decades = range(floor(log10(low)), ceil(log10(high)))
        ticks = [factor * 10**decade for decade in decades for factor in (1, 2, 5)]
        return [tick for tick in ticks if low <= tick <= high]
    steps = (factor * 10**decade for decade in range(10) for factor in (1, 2, 5))
    step = next(step for step in steps if high - low <= 5 * step)
    return list(range(ceil(low / step) * step, floor(high) + 1, step))
