"""The plots of ``optuna.visualization``, and accuracy against parameters, as HTML that needs no network."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, TypeVar

import optuna
from optuna.trial import FrozenTrial

from mnist_search.records import StudyRecord, TrialRecord

T = TypeVar("T")

FEWEST_TRIALS = 2
"""Complete trials without which there is nothing to plot."""

POINTS_SHOWN = 2.0
"""Percentage points below the best within which accuracies are shown beside parameters."""

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font-family:sans-serif;max-width:1100px;margin:auto;padding:1em}}</style>
<h1>{title}</h1>{plots}</html>
"""


def plots_page(study: optuna.Study) -> str | None:
    """HTML with history, importance, parallel coordinates, slices, curves and timeline.

    None while there are too few complete trials.
    """
    figures = study_figures(study)
    if not figures:
        return None
    parts = [f"<h2>{escape(name)}</h2>{html}" for name, html in as_html(figures).items()]
    return PAGE.format(title=escape(study.study_name), plots="".join(parts))


def study_figures(study: optuna.Study) -> dict[str, Any]:
    """Optuna's figures by title; none while there are too few complete trials."""
    from optuna import visualization  # plotly and scikit-learn, only when a page is made
    from optuna.importance import PedAnovaImportanceEvaluator

    trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]
    if len(complete) < FEWEST_TRIALS:
        return {}
    params = _varied(complete)
    evaluator = PedAnovaImportanceEvaluator()
    plots: dict[str, Callable[[], Any]] = {
        "Best so far": lambda: visualization.plot_optimization_history(study),
        "Importance by PED-ANOVA": lambda: visualization.plot_param_importances(study, evaluator, params),
        "Parallel coordinates": lambda: visualization.plot_parallel_coordinate(study, params),
        "Slices": lambda: visualization.plot_slice(study, params),
        "Learning curves": lambda: visualization.plot_intermediate_values(study),
        "Distribution of scores": lambda: visualization.plot_edf(study),
        "Timeline": lambda: visualization.plot_timeline(study),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # plots are experimental in Optuna, and say so every time
        figures = {name: make() for name, make in plots.items()}
    figures["Importance by PED-ANOVA"].update_layout(height=200 + 22 * len(params))  # a line for each
    return figures


def as_html(figures: dict[str, Any]) -> dict[str, str]:
    """Figures as HTML; one copy of plotly's script, in the first, serves all."""
    return {
        name: figure.to_html(
            full_html=False, include_plotlyjs=number == 0, config={"responsive": True, "displaylogo": False}
        )
        for number, (name, figure) in enumerate(figures.items())
    }


def accuracy_against_parameters(record: StudyRecord) -> Any:
    """Complete trials by size and accuracy, those that no smaller one beats, and the budget."""
    from plotly import graph_objects

    front = pareto_front(record.ranked)
    figure = graph_objects.Figure()
    figure.add_scatter(**_points(record.ranked), mode="markers", name="complete trials")
    figure.add_scatter(
        **_points(front), mode="lines+markers", name="no smaller one is better", line_shape="hv"
    )
    figure.add_vline(record.config.budget, line_dash="dash", annotation_text="budget")
    best = 100 * max((trial.val_accuracy or 0 for trial in record.ranked), default=0)
    figure.update_layout(
        xaxis_title="parameters", yaxis_title="validation accuracy, %",
        yaxis_range=[best - POINTS_SHOWN, best + 0.1 * POINTS_SHOWN],
    )  # fmt: skip
    return figure


def pareto_front(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Trials that no trial of as few parameters or fewer beats, the smallest first."""
    ranked = sorted(trials, key=lambda trial: trial.rank)
    return front(ranked, lambda trial: trial.num_params or 0, lambda trial: trial.val_accuracy or 0.0)


def front(things: Sequence[T], size: Callable[[T], int], score: Callable[[T], float]) -> list[T]:
    """What nothing as small or smaller equals or beats, the smallest first; of equals the first."""
    found: list[T] = []
    for thing in sorted(things, key=lambda t: (size(t), -score(t))):
        if not found or score(thing) > score(found[-1]):
            found.append(thing)
    return found


def _points(trials: Sequence[TrialRecord]) -> dict[str, Any]:
    return {
        "x": [trial.num_params for trial in trials],
        "y": [100 * (trial.val_accuracy or 0) for trial in trials],
        "text": [f"trial {trial.number}" for trial in trials],
    }


def _varied(trials: Sequence[FrozenTrial]) -> list[str]:
    """Params with more than one value among the trials; the others would be flat lines."""
    return [name for name in trials[0].params if len({trial.params.get(name) for trial in trials}) > 1]
