"""Figures of the report and of ``compare --plot``; their HTML loads nothing from the network."""

import warnings
from collections.abc import Sequence
from math import log10
from typing import Any

import optuna
from optuna import visualization
from optuna.importance import PedAnovaImportanceEvaluator
from plotly import graph_objects

from mnist_search.records import StudyRecord
from mnist_search.report.comparison import Row, pareto_front, studies_front

POINTS_SHOWN = 2.0  # range of the accuracy axis below the best trial, in percentage points
IMPORTANCE = "Importance by PED-ANOVA"

SERIES = (
    ("study", "test_accuracy_mean", "studies: test, mean over seeds", "star"),
    ("study", "val_accuracy", "studies: validation, used for selection", "star-open"),
    ("baseline", "test_accuracy_mean", "baselines reproduced: test, mean over seeds", "circle"),
    ("retrained", "test_accuracy_mean", "baselines, default training: test, mean over seeds", "diamond"),
    ("baseline", "reported_test_accuracy", "baselines as reported", "circle-open"),
    ("published", "reported_test_accuracy", "published, mostly single runs", "x-thin-open"),
)
"""Kind of row, measure, legend, marker."""


def as_html(figures: dict[str, Any]) -> dict[str, str]:
    """HTML fragments of the figures; the first one holds plotly's script for all."""
    config = {"responsive": True, "displaylogo": False}
    return {
        name: figure.to_html(full_html=False, include_plotlyjs=number == 0, config=config)
        for number, (name, figure) in enumerate(figures.items())
    }


def study_figures(study: optuna.Study) -> dict[str, Any]:
    """Optuna's figures by title; none while there are too few complete trials."""
    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(complete) < 2:  # Optuna has nothing to plot
        return {}
    params = [name for name in complete[0].params if len({trial.params.get(name) for trial in complete}) > 1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # every experimental plot of Optuna warns
        figures = {
            "Optimization history": visualization.plot_optimization_history(study),
            IMPORTANCE: visualization.plot_param_importances(study, PedAnovaImportanceEvaluator(), params),
            "Parallel coordinates": visualization.plot_parallel_coordinate(study, params),
            "Slices": visualization.plot_slice(study, params),
            "Learning curves": visualization.plot_intermediate_values(study),
            "Distribution of scores": visualization.plot_edf(study),
            "Timeline": visualization.plot_timeline(study),
        }
    figures[IMPORTANCE].update_layout(height=200 + 22 * len(params))  # one bar per param
    return figures


def trials_figure(record: StudyRecord) -> Any:
    """Accuracy against parameters of the complete trials, with their Pareto front and the budget."""
    trials: list[Row] = [
        {"name": f"trial {t.number}", "parameters": t.num_params or 0, "val_accuracy": t.val_accuracy or 0}
        for t in record.ranked
    ]
    front = _points(pareto_front(trials, "val_accuracy"), "val_accuracy")
    figure = graph_objects.Figure()
    figure.add_scatter(**_points(trials, "val_accuracy"), mode="markers", name="complete trials")
    figure.add_scatter(**front, mode="lines+markers", name="Pareto front", line_shape="hv")
    figure.add_vline(record.config.budget, line_dash="dash", annotation_text="budget")
    best = max((100 * trial["val_accuracy"] for trial in trials), default=0)
    y = {"title": "validation accuracy, %", "range": [best - POINTS_SHOWN, best + 0.1 * POINTS_SHOWN]}
    figure.update_layout(xaxis_title="parameters", yaxis=y)
    return figure


def comparison_figure(rows: Sequence[Row]) -> Any:
    """Accuracy against parameters of ``compare``'s rows, by every measure, with the studies' front."""
    figure = graph_objects.Figure()
    for kind, measure, legend, symbol in SERIES:
        series = [row for row in rows if row["kind"] == kind and row[measure] is not None]
        if series:
            marker = {"symbol": symbol, "size": 11, "line": {"width": 2}}
            figure.add_scatter(**_points(series, measure), mode="markers", name=legend, marker=marker)
    for measure in ("test_accuracy_mean", "val_accuracy"):
        front = studies_front(rows, measure)
        if len(front) > 1:
            line = {"shape": "hv", "dash": "dot"}
            points = _points(front, measure)
            figure.add_scatter(**points, mode="lines", name="Pareto front of the studies", line=line)
            break
    figure.update_traces(hovertemplate="%{text}<br>%{x:,} parameters<br>%{y:.2f} %")
    for number, budget in enumerate(sorted({row["budget"] for row in rows if row["budget"]})):
        figure.add_vline(budget, line_dash="dash")
        # On a logarithmic axis plotly places annotations, unlike lines, by the logarithm.
        place = {"x": log10(budget), "y": 1, "yref": "paper", "yanchor": "bottom"}
        shift = 15 * (number % 3)  # three levels keep close budgets apart
        figure.add_annotation(**place, yshift=shift, text=f"budget {budget:,}", showarrow=False)
    figure.update_layout(
        title="Accuracy against parameters",
        xaxis={"title": "parameters", "type": "log"},
        yaxis_title="accuracy, %",
        height=700,
        legend={"orientation": "h", "y": -0.15},
        margin={"t": 110},
    )
    return figure


def _points(rows: Sequence[Row], measure: str) -> dict[str, Any]:
    points: dict[str, Any] = {
        "x": [row["parameters"] for row in rows],
        "y": [100 * row[measure] for row in rows],
        "text": [row["name"] for row in rows],
    }
    if measure == "test_accuracy_mean":
        above = [100 * ((row["high"] or row[measure]) - row[measure]) for row in rows]
        points["error_y"] = {"type": "data", "array": above}  # the interval is symmetric
    return points
