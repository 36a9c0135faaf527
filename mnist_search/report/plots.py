"""Accuracy against parameters: the figure of ``compare --plot`` and that of the report."""

from __future__ import annotations

from collections.abc import Sequence
from math import log10
from typing import Any

from plotly import graph_objects

from mnist_search.records import StudyRecord
from mnist_search.report.axes import (
    accuracy_axis,
    add_note_of_hidden_points,
    error,
    error_points,
    parameter_ticks,
)
from mnist_search.report.comparison import Row, pareto_front, studies_front

SERIES = (
    ("study", "test_accuracy_mean", "best of a study: test, mean over seeds", "star", "#d62728"),
    ("study", "val_accuracy", "best of a study: validation, used for selection", "star-open", "#d62728"),
    ("baseline", "test_accuracy_mean", "baselines reproduced: test, mean over seeds", "circle", "#2ca02c"),
    ("retrained", "test_accuracy_mean", "baselines, default training: test, mean over seeds", "diamond", "#9467bd"),
    ("baseline", "reported_test_accuracy", "baselines as reported", "circle-open", "#2ca02c"),
    ("published", "reported_test_accuracy", "published by others, mostly single runs", "x-thin-open", "#555"),
)  # fmt: skip
"""Kind of row, measure, legend, marker, color."""

MEASURES = ("test_accuracy_mean", "val_accuracy", "reported_test_accuracy")
HOVER = "%{text}<br>%{x:,} parameters<br>%{customdata:.2f} %<extra></extra>"
TRIALS_COLOR, BEST_COLOR = "#7aa6d8", "#1f4e9c"


def as_html(figure: Any, *, with_script: bool) -> str:
    """A figure as an HTML fragment; the first one of a page holds plotly's script for all."""
    config = {"responsive": True, "displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d"]}
    html: str = figure.to_html(full_html=False, include_plotlyjs=with_script, config=config)
    return html


def comparison_figure(rows: Sequence[Row]) -> Any:
    """Accuracy against parameters of ``compare``'s rows, by every measure, with the studies' front."""
    figure = graph_objects.Figure()
    _add_series(figure, rows)
    for measure in ("test_accuracy_mean", "val_accuracy"):
        front = studies_front(rows, measure)
        if len(front) > 1:
            line = {"shape": "hv", "dash": "dot"}
            points = _points(front, measure)
            figure.add_scatter(**points, mode="lines", name="Pareto front of the studies", line=line)
            break
    figure.update_traces(hovertemplate=HOVER)
    budgets = sorted({row["budget"] for row in rows if row["budget"]})
    _add_budgets(figure, budgets)
    _lay_out(figure, [row[measure] for row in rows for measure in MEASURES if row[measure] is not None])
    shown = _parameter_range([*budgets, *(row["parameters"] for row in rows if row["parameters"])])
    figure.update_layout({name.replace(".", "_"): value for name, value in shown.items()})
    figure.update_layout(title="Accuracy against parameters", height=700, margin={"t": 110})
    return figure


def accuracy_figure(record: StudyRecord, rows: Sequence[Row]) -> Any:
    """Accuracy against parameters of a study's complete trials and of ``compare``'s rows.

    Two buttons show the range of all networks, or that of the trials.
    """
    trials: list[Row] = [
        {"name": f"trial {t.number}", "parameters": t.num_params or 0, "val_accuracy": t.val_accuracy or 0}
        for t in record.ranked
    ]
    figure = graph_objects.Figure()
    marker = {"size": 8, "color": TRIALS_COLOR}
    points = _points(trials, "val_accuracy")
    figure.add_scatter(**points, mode="markers", name="complete trials: validation", marker=marker)
    front = _points(pareto_front(trials, "val_accuracy"), "val_accuracy")
    line = {"shape": "hv", "color": BEST_COLOR}
    figure.add_scatter(**front, mode="lines+markers", name="Pareto front of the trials", line=line)
    _add_series(figure, rows)
    figure.update_traces(hovertemplate=HOVER)
    _add_budgets(figure, [record.config.budget])
    _lay_out(figure, [trial["val_accuracy"] for trial in trials])
    counts = [trial["parameters"] for trial in trials]
    _add_ranges(figure, [*counts, *(row["parameters"] for row in rows)], [*counts, record.config.budget])
    figure.update_layout(height=640, margin={"t": 90, "l": 60, "r": 15})
    add_note_of_hidden_points(figure, [trial["val_accuracy"] for trial in trials])
    return figure


def _add_series(figure: Any, rows: Sequence[Row]) -> None:
    for kind, measure, legend, symbol, color in SERIES:
        series = [row for row in rows if row["kind"] == kind and row[measure] is not None]
        if series:
            marker = {"symbol": symbol, "size": 11, "color": color, "line": {"width": 2, "color": color}}
            figure.add_scatter(**_points(series, measure), mode="markers", name=legend, marker=marker)


def _points(rows: Sequence[Row], measure: str) -> dict[str, Any]:
    points: dict[str, Any] = {
        "x": [row["parameters"] for row in rows],
        "text": [row["name"] for row in rows],
        **error_points([row[measure] for row in rows]),
    }
    if measure == "test_accuracy_mean":
        lows = [error(row[measure] if row["low"] is None else row["low"]) for row in rows]
        highs = [error(row[measure] if row["high"] is None else row["high"]) for row in rows]
        points["error_y"] = {
            "type": "data",
            "array": [low - y for low, y in zip(lows, points["y"], strict=True)],
            "arrayminus": [y - high for high, y in zip(highs, points["y"], strict=True)],
        }
    return points


def _add_budgets(figure: Any, budgets: Sequence[int]) -> None:
    for number, budget in enumerate(budgets):
        figure.add_vline(budget, line_dash="dash", line_color="#888")
        # On a logarithmic axis plotly places annotations, unlike lines, by the logarithm.
        place = {"x": log10(budget), "y": 1, "yref": "paper", "xanchor": "right", "yanchor": "bottom"}
        shift = 8 + 15 * (number % 3)  # above the highest tick; three levels keep close budgets apart
        figure.add_annotation(**place, yshift=shift, text=f"budget {budget:,}", showarrow=False)


def _lay_out(figure: Any, accuracies: Sequence[float]) -> None:
    figure.update_layout(
        template="plotly_white",
        xaxis={"title": "number of parameters (log scale)", "type": "log"},
        yaxis=accuracy_axis("accuracy (error in log scale)", accuracies),
        legend={"orientation": "h", "y": -0.18, "yanchor": "top"},
        dragmode=False,
    )


def _parameter_range(counts: Sequence[int]) -> dict[str, Any]:
    """The part of a logarithmic axis that shows these numbers of parameters."""
    low, high = log10(min(counts)), log10(max(counts))
    margin = 0.05 * (high - low) or 0.05
    ticks = parameter_ticks(10 ** (low - margin), 10 ** (high + margin))
    return {
        "xaxis.range": [low - margin, high + margin],
        "xaxis.tickvals": ticks,
        "xaxis.ticktext": [f"{tick:,}" for tick in ticks],
    }


def _add_ranges(figure: Any, every: Sequence[int], trials: Sequence[int]) -> None:
    """Buttons for the range of the abscissa."""
    ranges = {"all networks": _parameter_range(every), "this study": _parameter_range(trials)}
    buttons = [{"label": name, "method": "relayout", "args": [shown]} for name, shown in ranges.items()]
    place = {
        "x": 0,
        "xanchor": "left",
        "y": 1.02,
        "yanchor": "bottom",
        "direction": "right",
        "pad": {"b": 20},
    }
    figure.update_layout(updatemenus=[{"type": "buttons", "buttons": buttons, **place}])
    figure.update_layout({name.replace(".", "_"): value for name, value in ranges["all networks"].items()})
