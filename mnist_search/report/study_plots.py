"""Figures of one study: history, learning curves, importance, parallel coordinates."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import optuna
from optuna import importance, visualization
from optuna.distributions import FloatDistribution
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import TrialState, create_trial
from plotly import graph_objects

from mnist_search.records import StudyRecord, TrialRecord, percent
from mnist_search.report.axes import accuracy_axis, add_note_of_hidden_points, error_points
from mnist_search.report.plots import BEST_COLOR, TRIALS_COLOR
from mnist_search.search.study import quiet_optuna

HIGHLIGHTED = 5
"""Number of best trials whose learning curves have colors."""

COORDINATES = 7
"""Number of params in the parallel coordinates: those with the highest importance."""

COORDINATES_OF_FEW = ("depth", "width_1", "optimizer", "peak_lr", "schedule", "batch_size", "dropout")
"""Params in the parallel coordinates of a study with too few trials for importances."""

MIN_TRIALS = 10
"""Complete trials below which the importance of a param is not estimated: its best tenth is less than one."""

RATE, RATES = "peak_lr", ("sgd_lr", "adamw_lr")

TRANSPARENT = "rgba(0,0,0,0)"

LIGHTEST, LIGHTEST_RED = "rgb(158, 202, 225)", 158
"""Color of the least accurate trials in the parallel coordinates, which Optuna draws white."""

WORDS = {
    "depth": "blocks",
    "transition_width": "channels, transition",
    "pool_1": "first pooling",
    "pool_2": "second pooling",
    "dropout": "dropout rate",
    "dropout_per": "unit of dropout",
    "peak_lr": "learning rate, peak",
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
    if pruned:
        figure.add_scatter(**_by_number(pruned), mode="markers", name=name, marker=marker)
    marker = {"color": TRIALS_COLOR, "size": 8}
    figure.add_scatter(**_by_number(complete), mode="markers", name="complete trials", marker=marker)
    numbers = [trial.number for trial in complete]
    line = {"shape": "hv", "color": BEST_COLOR}
    figure.add_scatter(x=numbers, **error_points(best), mode="lines", name="best so far", line=line)
    figure.update_traces(hovertemplate="trial %{x}<br>%{customdata:.2f} %<extra></extra>")
    every = [trial.val_accuracy or 0.0 for trial in (*complete, *pruned)]
    _lay_out(figure, "number of the trial", best, every)
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
    every = [e.val_accuracy for t in record.slots for e in t.curve if e.val_accuracy is not None]
    _lay_out(figure, "epoch", [trial.val_accuracy or 0.0 for trial in best], every, lowest=0.95)
    figure.update_xaxes(dtick=max(1, round(record.config.space.epochs / 15)))
    return figure


def _curve(trial: TrialRecord) -> dict[str, Any]:
    epochs = [metrics for metrics in trial.curve if metrics.val_accuracy is not None]
    return {
        "x": [metrics.epoch for metrics in epochs],
        "text": [f"trial {trial.number}"] * len(epochs),
        **error_points([metrics.val_accuracy or 0.0 for metrics in epochs]),
    }


def _lay_out(
    figure: Any, abscissa: str, accuracies: Sequence[float], every: Sequence[float], lowest: float = 0.98
) -> None:
    """Lay out a figure of ``every`` point, whose best are ``accuracies``."""
    figure.update_layout(
        template="plotly_white",
        xaxis_title=abscissa,
        yaxis=accuracy_axis("validation accuracy (error in log scale)", accuracies, lowest, others=every),
        legend={"orientation": "h", "y": -0.2, "yanchor": "top"},
        showlegend=True,
        height=520,
        margin={"t": 30, "l": 60, "r": 15},
        dragmode=False,
    )
    add_note_of_hidden_points(figure, every)


@quiet_optuna()
def displayed_study(study: optuna.Study) -> optuna.Study:
    """The complete trials with one learning rate, that of the trial's optimizer, in place of one per optimizer."""
    displayed = optuna.create_study(direction="maximize")
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    rates = [_learning_rate(trial.params) for trial in complete]
    known = [rate for rate in rates if rate is not None]
    for trial, rate in zip(complete, rates, strict=True):
        params = {name: value for name, value in trial.params.items() if name not in RATES}
        distributions = {name: trial.distributions[name] for name in params}
        if rate is not None and len(known) == len(complete):
            params[RATE] = rate
            distributions[RATE] = FloatDistribution(min(known), max(known), log=True)
        displayed.add_trial(create_trial(value=trial.value, params=params, distributions=distributions))
    return displayed


def _learning_rate(params: Mapping[str, Any]) -> float | None:
    """The rate of the optimizer; None in a study that does not search it."""
    optimizers = [name for name in RATES if name in params]
    if "optimizer" in params:
        return params.get(f"{params['optimizer']}_lr")
    return params[optimizers[0]] if len(optimizers) == 1 else None


def varying_params(study: optuna.Study) -> list[str]:
    """The params of which a study has tried several values."""
    trials = study.get_trials(deepcopy=False)
    names = trials[0].params if trials else ()
    return [name for name in names if len({trial.params.get(name) for trial in trials}) > 1]


def importances(study: optuna.Study) -> dict[str, float]:
    """Importance of the params that vary by PED-ANOVA, the highest first; none for fewer than MIN_TRIALS trials."""
    if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < MIN_TRIALS:
        return {}
    params = varying_params(study)
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
    for trace in figure.data:
        color = str(trace.line.color)
        if color.startswith("rgb(") and float(color[4:].split(",", maxsplit=1)[0]) > LIGHTEST_RED:
            trace.line.color = LIGHTEST
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
