"""Networks of many origins by size and accuracy, as a page that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log10
from typing import Any

from mnist_search.report.plots import PAGE, as_html, front

Row = Mapping[str, Any]

SERIES = (
    ("study", "test_accuracy_mean", "our studies, test mean of several seeds", "star"),
    ("study", "val_accuracy", "our studies, validation, which the search chose by", "star-open"),
    ("seed", "test_accuracy_mean", "seeds reproduced, test mean of several seeds", "circle"),
    ("retrained", "test_accuracy_mean", "the seeds' networks, our training", "diamond"),
    ("seed", "claimed_test_accuracy", "seeds as claimed", "circle-open"),
    ("published", "claimed_test_accuracy", "published, mostly single runs", "x-thin-open"),
)  # fmt: skip
"""Kind, measure, what the legend says, marker."""


def networks_page(rows: Sequence[Row]) -> str:
    """HTML of accuracy against parameters; ``rows`` are those of ``compare``."""
    title = "Accuracy against parameters"
    (plot,) = as_html({title: networks_figure(rows)}).values()
    return PAGE.format(title=title, plots=plot)


def networks_figure(rows: Sequence[Row]) -> Any:
    """Every network by every measure there is of it, our studies' front, and their budgets."""
    from plotly import graph_objects

    figure = graph_objects.Figure()
    for kind, measure, legend, symbol in SERIES:
        among = [row for row in rows if row["kind"] == kind and row[measure] is not None]
        if among:
            figure.add_scatter(**_points(among, measure), mode="markers", name=legend,
                               marker={"symbol": symbol, "size": 11, "line": {"width": 2}})  # fmt: skip
    for measure in ("test_accuracy_mean", "val_accuracy"):
        ours = studies_front(rows, measure)
        if len(ours) > 1:
            figure.add_scatter(
                **_points(ours, measure), mode="lines", name="our front", line={"shape": "hv", "dash": "dot"}
            )
            break
    for tracking_config, budget in enumerate(sorted({row["budget"] for row in rows if row["budget"]})):
        figure.add_vline(budget, line_dash="dash")
        # Annotations, unlike lines, are placed by the logarithm; three levels keep near ones apart.
        figure.add_annotation(
            x=log10(budget), y=1, yref="paper", yanchor="bottom", yshift=15 * (tracking_config % 3),
            text=f"budget {budget:,}", showarrow=False,
        )  # fmt: skip
    figure.update_layout(
        xaxis={"title": "parameters", "type": "log"}, yaxis_title="accuracy, %", height=650,
        legend={"orientation": "h", "y": -0.15}, margin={"t": 65},
    )  # fmt: skip
    return figure


def studies_front(rows: Sequence[Row], measure: str) -> list[Row]:
    """Our studies that none with as few parameters or fewer beats, the smallest first."""
    ours = [row for row in rows if row["kind"] == "study" and row[measure] is not None]
    return front(ours, lambda row: row["parameters"], lambda row: row[measure])


def _points(rows: Sequence[Row], measure: str) -> dict[str, Any]:
    points: dict[str, Any] = {
        "x": [row["parameters"] for row in rows],
        "y": [100 * row[measure] for row in rows],
        "text": [row["name"] for row in rows],
        "hovertemplate": "%{text}<br>%{x:,} parameters<br>%{y:.2f} %",
    }
    if measure == "test_accuracy_mean":
        above = [100 * ((row["high"] or row[measure]) - row[measure]) for row in rows]
        points["error_y"] = {"type": "data", "array": above}  # the interval is symmetric
    return points
