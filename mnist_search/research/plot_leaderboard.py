"""The picture of the README: accuracy against parameters, as SVG.

python -m mnist_search.research.plot_leaderboard experiments/accuracy_vs_parameters.svg
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import matplotlib as mpl
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mnist_search.evaluation.finals import RETRAINED_SUFFIX

EXPERIMENTS = Path("experiments")


class Point(NamedTuple):
    """A network. Accuracy and half the 95 % interval are in %."""

    parameters: int
    accuracy: float
    half_interval: float = 0.0


def main(
    output: Annotated[Path, typer.Argument(help="SVG file to write.")],
    experiments: Annotated[Path, typer.Option(help="Folder with the results.")] = EXPERIMENTS,
) -> None:
    """Plot the champions, the baselines and what others published."""
    reproduced = json.loads((experiments / "measured" / "reproduced.json").read_text())
    authors = [row for row in reproduced if not row["name"].endswith(RETRAINED_SUFFIX)]
    retrained = [row for row in reproduced if row["name"].endswith(RETRAINED_SUFFIX)]
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mnist-search", "font.size": 10}):
        figure = Figure(figsize=(7.5, 4.2), layout="constrained")
        axes = figure.subplots()
        published = json.loads((experiments / "published.json").read_text())
        others = [Point(network["parameters"], 100 * network["test_accuracy"]) for network in published]
        _draw(axes, others, "x", "0.6", "published by others, as reported")
        _draw(axes, map(_baseline, authors), "s", "tab:orange", "baselines, their authors' training")
        _draw(axes, map(_baseline, retrained), "D", "tab:blue", "baselines, default training")
        _draw(axes, _champions(experiments / "champions"), "*", "tab:red", "champions of mnist-search")
        _label(axes)
        figure.savefig(output, format="svg", metadata={"Date": None, "Creator": None})


def _baseline(row: Mapping[str, Any]) -> Point:
    mean = 100 * row["test_accuracy_mean"]
    return Point(row["parameters"], mean, 100 * row["high"] - mean)


def _champions(folder: Path) -> Iterator[Point]:
    for path in sorted(folder.glob("*/card.json")):
        card = json.loads(path.read_text())
        mean = 100 * card["test_accuracy_mean"]
        yield Point(card["parameters"], mean, 100 * card["test_accuracy_high"] - mean)


def _draw(axes: Axes, points: Iterable[Point], marker: str, color: str, label: str) -> None:
    parameters, accuracy, half_interval = zip(*points, strict=True)
    error = half_interval if any(half_interval) else None
    size = 14 if marker == "*" else 6
    axes.errorbar(
        parameters, accuracy, error, fmt=marker, color=color, label=label, ms=size, elinewidth=1, capsize=2
    )


def _label(axes: Axes) -> None:
    axes.set_xscale("log")
    ticks = [700, 2000, 4000, 8000, 16000, 25000]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("parameters")
    axes.set_ylabel("test accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", fontsize=8)


if __name__ == "__main__":
    typer.run(main)
