"""Warm start: enqueue baselines, templates or the best trials of a smaller budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from experiments import BASELINES, StudyConfig, defaults
from mnist_search.errors import NotFound
from mnist_search.records import StudyRecord
from mnist_search.search.study import SearchStudy

NUM_TRANSFERRED = 3
"""Number of trials of a smaller budget that a study of a larger one starts with."""


def enqueue_baselines(search_study: SearchStudy) -> list[str]:
    """Enqueue the baselines within the budget, projected to the space, each once.

    Returns:
        The names of the baselines within the budget.
    """
    config = search_study.config
    points = {name: project_to_space(config, r.params) for name, r in BASELINES.items() if r.params}
    names = [name for name, params in points.items() if config.parameter_budget.fits(params)]
    for name in names:
        search_study.enqueue(points[name])
    return names


def enqueue_templates(search_study: SearchStudy) -> None:
    """Enqueue the known templates in a new study, at most one per slot, each once.

    A study with started trials is left unchanged.
    """
    if any(trial.state != TrialState.WAITING for trial in search_study.study.get_trials(deepcopy=False)):
        return
    for params in known_templates(search_study.config)[: search_study.n_trials]:
        search_study.enqueue(params)


def known_templates(study_config: StudyConfig) -> list[dict[str, Any]]:
    """The default template and the baselines' architectures, scaled to the budget, with default training."""
    templates = [defaults.TEMPLATE, *(recipe.params for recipe in BASELINES.values() if recipe.params)]
    return [scaled_to_budget(study_config, {**params, **defaults.TRAINING_PARAMS}) for params in templates]


def enqueue_best(search_study: SearchStudy, smaller: StudyRecord) -> None:
    """Enqueue the best trials of a smaller budget, scaled to this one."""
    for trial in smaller.ranked[:NUM_TRANSFERRED]:
        search_study.enqueue(scaled_to_budget(search_study.config, trial.params))


def scaled_to_budget(study_config: StudyConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    """Project the params to the space and scale their widths to the budget."""
    # Unclipped widths: scaling respects the bounds, and clipping first would change the proportions.
    widths = {name: params[name] for name in study_config.space.width_params if name in params}
    return study_config.parameter_budget.scale_to_budget(project_to_space(study_config, params) | widths)


def project_to_space(study_config: StudyConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    """A full set of params of the space, the nearest to the given ones."""
    return {
        name: _clip(param, params[name]) if name in params else _default_value(param)
        for name, param in study_config.space.distributions.items()
    }


def _clip(param: BaseDistribution, value: Any) -> Any:
    if isinstance(param, IntDistribution | FloatDistribution):
        return type(param.low)(np.clip(value, param.low, param.high))
    return value


def _default_value(param: BaseDistribution) -> Any:
    """The lower bound, or the first choice."""
    if isinstance(param, IntDistribution | FloatDistribution):
        return param.low
    return param.to_external_repr(0)


def baseline_params(name: str) -> Mapping[str, Any]:
    """Params of the point of the search space next to a baseline.

    Raises:
        NotFound: no baseline of that name, or none with such a point.
    """
    params = {name: recipe.params for name, recipe in BASELINES.items() if recipe.params}
    if name not in params:
        raise NotFound(f"no baseline {name!r} in the search space; --baseline takes {', '.join(params)}")
    return params[name]


def trial_params(record: StudyRecord, number: int) -> Mapping[str, Any]:
    """Params of a stored trial.

    Raises:
        NotFound: no trial of that number, or one without params.
    """
    trial = record.trial(number)
    if trial is None or not trial.params:
        raise NotFound(
            f"study {record.name!r} has no trial {number} with a network; see mnist-search trials {record.name}"
        )
    return trial.params
