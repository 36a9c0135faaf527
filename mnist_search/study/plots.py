"""The plots of ``optuna.visualization`` as one page that needs no network."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import optuna
from optuna.trial import FrozenTrial

FEWEST_TRIALS = 2
"""Complete trials without which there is nothing to plot."""

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font-family:sans-serif;max-width:1100px;margin:auto;padding:1em}}</style>
<h1>{title}</h1>{plots}</html>
"""


def plots_page(study: optuna.Study) -> str | None:
    """HTML with history, importance, parallel coordinates, slices, curves and timeline.

    None while there are too few complete trials.
    """
    from optuna import visualization  # plotly and scikit-learn, only when a page is made
    from optuna.importance import PedAnovaImportanceEvaluator

    trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]
    if len(complete) < FEWEST_TRIALS:
        return None
    genes = _varied(complete)
    evaluator = PedAnovaImportanceEvaluator()
    plots: dict[str, Callable[[], Any]] = {
        "Best so far": lambda: visualization.plot_optimization_history(study),
        "Importance by PED-ANOVA": lambda: visualization.plot_param_importances(study, evaluator, genes),
        "Parallel coordinates": lambda: visualization.plot_parallel_coordinate(study, genes),
        "Slices": lambda: visualization.plot_slice(study, genes),
        "Learning curves": lambda: visualization.plot_intermediate_values(study),
        "Distribution of scores": lambda: visualization.plot_edf(study),
        "Timeline": lambda: visualization.plot_timeline(study),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # plots are experimental in Optuna, and say so every time
        parts = [
            # One copy of plotly's script serves the whole page.
            f"<h2>{escape(name)}</h2>" + make().to_html(full_html=False, include_plotlyjs=number == 0)
            for number, (name, make) in enumerate(plots.items())
        ]
    return PAGE.format(title=escape(study.study_name), plots="".join(parts))


def _varied(trials: Sequence[FrozenTrial]) -> list[str]:
    """Genes with more than one value among the trials; the others would be flat lines."""
    return [name for name in trials[0].params if len({trial.params.get(name) for trial in trials}) > 1]
