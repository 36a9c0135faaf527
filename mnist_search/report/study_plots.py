"""Figures of one study: history, learning curves, importance, parallel coordinates."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import optuna
from optuna import importance, visualization
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import TrialState
from plotly import graph_objects

from mnist_search.records import StudyRecord, TrialRecord, percent
from mnist_search.report.axes import accuracy_axis, error_points
from mnist_search.report.plots import BEST_COLOR, TRIALS_COLOR

HIGHLIGHTED = 5
"""Number of best trials whose learning curves have colors."""

COORDINATES = 7
"""Number of params in the parallel coordinates: those with the highest importance."""

TRANSPARENT = "rgba(0,0,0,0)"

WORDS = {
    "depth": "blocks",
    "transition_width": "channels, transition",
    "pool_1": "first pooling",
    "pool_2": "second pooling",
    "dropout": "dropout rate",
    "dropout_per": "unit of dropout",
    "sgd_lr": "learning rate, SGD",
    "adamw_lr": "learning rate, AdamW",
}
"""Params whose names are not words already."""


def param_words(name: str) -> str:
    """A param in words."""
    if name.startswith("width_"):
        return f"channels, block {name.removeprefix('width_')}"
    return WORDS.get(name, name.replace("_", " "))


def history_figure(record: StudyRecord) -> Any:
    """Validation accuracy by trial number, with the best so far."""
    complete = sorted(record.ranked, key=lambda trial: trial.number)
    pruned = [trial for trial in record.done if trial.state == "PRUNED" and trial.val_accuracy is not None]
    best = list(accumulate((trial.val_accuracy or 0.0 for trial in complete), max))
    figure = graph_objects.Figure()
    marker = {"symbol": "x-thin-open", "color": "#999", "size": 7}
    name = "pruned trials, after their last epoch"
    figure.add_scatter(**_by_number(pruned), mode="markers", name=name, marker=marker)
    marker = {"color": TRIALS_COLOR, "size": 8}
    figure.add_scatter(**_by_number(complete), mode="markers", name="complete trials", marker=marker)
    numbers = [trial.number for trial in complete]
    line = {"shape": "hv", "color": BEST_COLOR}
    figure.add_scatter(x=numbers, **error_points(best), mode="lines", name="best so far", line=line)
    figure.update_traces(hovertemplate="trial %{x}<br>%{customdata:.2f} %<extra></extra>")
    _lay_out(figure, "number of the trial", best)
    return figure


def _by_number(trials: Sequence[TrialRecord]) -> dict[str, Any]:
    return {"x": [t.number for t in trials], **error_points([t.val_accuracy or 0.0 for t in trials])}


def curves_figure(record: StudyRecord) -> Any:
    """Validation accuracy by epoch, the best trials in colors."""
    best = record.ranked[:HIGHLIGHTED]
    figure = graph_objects.Figure()
    numbers = {trial.number for trial in best}
    others = [_curve(trial) for trial in record.slots if trial.number not in numbers]
    if others:  # one trace, because plotly is slow with hundreds; a gap separates the curves
        joined = {key: [value for curve in others for value in (*curve[key], None)] for key in others[0]}
        figure.add_scatter(**joined, name="other trials", line={"color": "#ccc", "width": 1})
    for trial in best:
        name = f"trial {trial.number} ({percent(trial.val_accuracy)})"
        figure.add_scatter(**_curve(trial), name=name, line_width=3 if trial is best[0] else 1.5)
    hover = "%{text}, epoch %{x}<br>%{customdata:.2f} %<extra></extra>"
    figure.update_traces(mode="lines+markers", marker_size=4, hovertemplate=hover)
    _lay_out(figure, "epoch", [trial.val_accuracy or 0.0 for trial in best], lowest=0.95)
    return figure


def _curve(trial: TrialRecord) -> dict[str, Any]:
    epochs = [metrics for metrics in trial.curve if metrics.val_accuracy is not None]
    return {
        "x": [metrics.epoch for metrics in epochs],
        "text": [f"trial {trial.number}"] * len(epochs),
        **error_points([metrics.val_accuracy or 0.0 for metrics in epochs]),
    }


def _lay_out(figure: Any, abscissa: str, accuracies: Sequence[float], lowest: float = 0.98) -> None:
    figure.update_layout(
        template="plotly_white",
        xaxis_title=abscissa,
        yaxis=accuracy_axis("validation accuracy (error in log scale)", accuracies, lowest),
        legend={"orientation": "h", "y": -0.2, "yanchor": "top"},
        showlegend=True,
        height=520,
        margin={"t": 30, "l": 60, "r": 15},
        dragmode=False,
    )


def importances(study: optuna.Study) -> dict[str, float]:
    """Importance of the params that vary by PED-ANOVA, the highest first; none for fewer than two trials."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < 2:
        return {}
    params = [name for name in complete[0].params if len({trial.params.get(name) for trial in complete}) > 1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the evaluator is experimental
        evaluator = PedAnovaImportanceEvaluator()
        return importance.get_param_importances(study, evaluator=evaluator, params=params)


def importance_figure(shares: dict[str, float]) -> Any:
    """A bar per param, the most important on top."""
    figure = graph_objects.Figure()
    names = list(reversed(shares))
    figure.add_bar(
        x=[100 * shares[name] for name in names],
        y=[param_words(name) for name in names],
        text=names,
        orientation="h",
        textposition="none",
        marker_color=BEST_COLOR,
        hovertemplate="%{text}: %{x:.1f} %<extra></extra>",
    )
    figure.update_layout(
        template="plotly_white",
        xaxis={"title": "share of the total importance, %"},
        yaxis={"automargin": True, "dtick": 1},
        height=120 + 22 * len(names),
        margin={"t": 20, "l": 0, "r": 15},
        dragmode=False,
    )
    return figure


def parallel_figure(study: optuna.Study, params: Sequence[str]) -> Any:
    """Optuna's parallel coordinates of these params, labeled in words."""
    figure = visualization.plot_parallel_coordinate(study, list(params), target_name="validation accuracy")
    labels = [param_words(name).replace(" ", "<br>", 1) for name in figure.layout.xaxis.ticktext]
    figure.update_layout(
        xaxis={"ticktext": labels, "tickangle": 0},
        title=None,
        height=460,
        margin={"t": 30, "l": 50, "r": 10},
        dragmode=False,
        paper_bgcolor=TRANSPARENT,  # the shadows of the scroll container stay visible
        plot_bgcolor=TRANSPARENT,
    )
    return figure
