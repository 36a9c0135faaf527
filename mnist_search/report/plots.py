"""Figures of the report and of ``compare --plot``; their HTML loads nothing from the network."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from math import log10
from typing import Any

import optuna
from optuna import visualization
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial
from plotly import graph_objects

from mnist_search.records import StudyRecord, TrialRecord
from mnist_search.report.comparison import Row, pareto_front, studies_front

MIN_TRIALS = 2
"""Complete trials below which Optuna has nothing to plot."""

POINTS_SHOWN = 2.0
"""Range of the accuracy axis below the best trial, in percentage points."""

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
    trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]
    if len(complete) < MIN_TRIALS:
        return {}
    params = _varied_params(complete)
    evaluator = PedAnovaImportanceEvaluator()
    plots: dict[str, Callable[[], Any]] = {
        "Optimization history": lambda: visualization.plot_optimization_history(study),
        IMPORTANCE: lambda: visualization.plot_param_importances(study, evaluator, params),
        "Parallel coordinates": lambda: visualization.plot_parallel_coordinate(study, params),
        "Slices": lambda: visualization.plot_slice(study, params),
        "Learning curves": lambda: visualization.plot_intermediate_values(study),
        "Distribution of scores": lambda: visualization.plot_edf(study),
        "Timeline": lambda: visualization.plot_timeline(study),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # every experimental plot of Optuna warns
        figures = {name: plot() for name, plot in plots.items()}
    figures[IMPORTANCE].update_layout(height=200 + 22 * len(params))  # one bar per param
    return figures


def _varied_params(trials: Sequence[FrozenTrial]) -> list[str]:
    """Params with more than one value among the trials."""
    return [name for name in trials[0].params if len({trial.params.get(name) for trial in trials}) > 1]


def trials_figure(record: StudyRecord) -> Any:
    """Accuracy against parameters of the complete trials, with their Pareto front and the budget."""
    front = pareto_front(record.ranked, lambda t: t.num_params or 0, lambda t: t.val_accuracy or 0.0)
    figure = graph_objects.Figure()
    figure.add_scatter(**_trial_points(record.ranked), mode="markers", name="complete trials")
    figure.add_scatter(**_trial_points(front), mode="lines+markers", name="Pareto front", line_shape="hv")
    figure.add_vline(record.config.budget, line_dash="dash", annotation_text="budget")
    best = 100 * max((trial.val_accuracy or 0 for trial in record.ranked), default=0)
    figure.update_layout(
        xaxis_title="parameters",
        yaxis_title="validation accuracy, %",
        yaxis_range=[best - POINTS_SHOWN, best + 0.1 * POINTS_SHOWN],
    )
    return figure


def _trial_points(trials: Sequence[TrialRecord]) -> dict[str, Any]:
    return {
        "x": [trial.num_params for trial in trials],
        "y": [100 * (trial.val_accuracy or 0) for trial in trials],
        "text": [f"trial {trial.number}" for trial in trials],
    }


def comparison_figure(rows: Sequence[Row]) -> Any:
    """Accuracy against parameters of ``compare``'s rows, by every measure, with the studies' front."""
    figure = graph_objects.Figure()
    for kind, measure, legend, symbol in SERIES:
        series = [row for row in rows if row["kind"] == kind and row[measure] is not None]
        if series:
            marker = {"symbol": symbol, "size": 11, "line": {"width": 2}}
            figure.add_scatter(**_row_points(series, measure), mode="markers", name=legend, marker=marker)
    for measure in ("test_accuracy_mean", "val_accuracy"):
        front = studies_front(rows, measure)
        if len(front) > 1:
            line = {"shape": "hv", "dash": "dot"}
            points = _row_points(front, measure)
            figure.add_scatter(**points, mode="lines", name="Pareto front of the studies", line=line)
            break
    _add_budgets(figure, sorted({row["budget"] for row in rows if row["budget"]}))
    figure.update_layout(
        title="Accuracy against parameters",
        xaxis={"title": "parameters", "type": "log"},
        yaxis_title="accuracy, %",
        height=700,
        legend={"orientation": "h", "y": -0.15},
        margin={"t": 110},
    )
    return figure


def _add_budgets(figure: Any, budgets: Sequence[int]) -> None:
    for number, budget in enumerate(budgets):
        figure.add_vline(budget, line_dash="dash")
        # On a logarithmic axis plotly places annotations, unlike lines, by the logarithm.
        figure.add_annotation(
            x=log10(budget),
            y=1,
            yref="paper",
            yanchor="bottom",
            yshift=15 * (number % 3),  # three levels keep close budgets apart
            text=f"budget {budget:,}",
            showarrow=False,
        )


def _row_points(rows: Sequence[Row], measure: str) -> dict[str, Any]:
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
