"""Warm start: enqueue baselines, templates or the best trials of a smaller budget."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState

from experiments import BASELINES, StudyConfig, defaults
from mnist_search.errors import NotFound
from mnist_search.records import StudyRecord
from mnist_search.search.study import SearchStudy
from search_space import TrialConfig
from search_space.ranges import range_of

logger = logging.getLogger(__name__)

POINTS = {name: recipe.params for name, recipe in BASELINES.items() if recipe.params}
"""Params of the points of the search space next to the baselines that have one."""


def enqueued_params(config: StudyConfig, warm_start: str) -> list[dict[str, Any]]:
    """Params of the trials that a new study starts with: those of ``templates``, ``baselines`` or ``none``."""
    if warm_start == "baselines":
        return list(_fitting_baselines(config).values())
    return known_templates(config) if warm_start == "templates" else []


def _fitting_baselines(config: StudyConfig) -> dict[str, dict[str, Any]]:
    points = {name: project_to_space(config, params) for name, params in POINTS.items()}
    return {name: params for name, params in points.items() if config.parameter_budget.fits(params)}


def enqueue_baselines(search_study: SearchStudy) -> list[str]:
    """Enqueue the baselines within the budget, projected to the space, each once; their names."""
    fitting = _fitting_baselines(search_study.config)
    for params in fitting.values():
        search_study.enqueue(params)
    return list(fitting)


def enqueue_templates(search_study: SearchStudy) -> None:
    """Enqueue the known templates, at most one per slot, each once, unless the study has started trials.

    A warning names the ranges of params that the templates are fitted to.
    """
    trials = search_study.study.get_trials(deepcopy=False)
    if all(trial.state == TrialState.WAITING for trial in trials):
        added = sum(
            search_study.enqueue(params)
            for params in known_templates(search_study.config)[: search_study.n_trials]
        )
        if narrowed := search_study.config.space.params:
            logger.warning("%d templates are fitted to the ranges of %s", added, ", ".join(narrowed))


def known_templates(study_config: StudyConfig) -> list[dict[str, Any]]:
    """The default template and the baselines' architectures, with default training, fitted to the space.

    They are scaled to the budget. Templates that become equal to an earlier one are left out.
    """
    fitted: dict[TrialConfig, dict[str, Any]] = {}
    for template in (defaults.TEMPLATE, *POINTS.values()):
        params = scaled_to_budget(study_config, {**template, **defaults.TRAINING_PARAMS})
        fitted.setdefault(study_config.space.decode(params), params)
    return list(fitted.values())


def enqueue_best(search_study: SearchStudy, smaller: StudyRecord) -> None:
    """Enqueue the three best trials of a smaller budget, scaled to this one."""
    for trial in smaller.ranked[:3]:
        search_study.enqueue(scaled_to_budget(search_study.config, trial.params))


def scaled_to_budget(study_config: StudyConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    """Project the params to the space and scale their widths to the budget."""
    # Unclipped widths: scaling respects the bounds, and clipping first would change the proportions.
    widths = {name: params[name] for name in study_config.space.width_params if name in params}
    return study_config.parameter_budget.scale_to_budget(project_to_space(study_config, params) | widths)


def project_to_space(study_config: StudyConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    """The point of the space nearest to the params; one that is not given is at its lower bound or first choice."""
    projected: dict[str, Any] = {}
    for name, param in study_config.space.distributions.items():
        if isinstance(param, IntDistribution | FloatDistribution):
            value = np.clip(params.get(name, param.low), param.low, param.high)
            projected[name] = type(param.low)(value)
        else:
            first, *others = range_of(param)
            projected[name] = params.get(name) if params.get(name) in others else first
    return projected


def baseline_params(name: str) -> Mapping[str, Any]:
    """Params of the point of the search space next to a baseline; NotFound without such a point."""
    if name not in POINTS:
        raise NotFound(f"no baseline {name!r} in the search space; --baseline takes {', '.join(POINTS)}")
    return POINTS[name]


def trial_params(record: StudyRecord, number: int) -> Mapping[str, Any]:
    """Params of a stored trial; NotFound without such a trial, or if it has none."""
    trial = record.trial(number)
    if trial is None or not trial.params:
        raise NotFound(
            f"study {record.name!r} has no trial {number} with a network; see mnist-search trials {record.name}"
        )
    return trial.params
