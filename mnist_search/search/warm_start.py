"""Trials that are put first: what is known to be good already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from experiments import BASELINES, StudyConfig, defaults
from mnist_search.records import StudyRecord
from mnist_search.search.study import SearchStudy

CARRIED_UP = 3
"""How many networks of a smaller budget a larger one begins with."""


def enqueue_baselines(search_study: SearchStudy) -> list[str]:
    """Put the seeds that fit first, as near as the space comes to them; names of those that fit.

    A seed that was put there before is not put there again.
    """
    fitting = {
        name: params
        for name, recipe in BASELINES.items()
        if recipe.params
        for params in [project_to_space(search_study.config, recipe.params)]
        if search_study.config.parameter_budget.fits(params)
    }
    for params in fitting.values():
        search_study.enqueue(params)
    return list(fitting)


def enqueue_templates(search_study: SearchStudy) -> None:
    """Have a new study begin with known plans, as far as there are slots.

    None is put there twice, and none in a study that has begun.
    """
    if any(trial.state != TrialState.WAITING for trial in search_study.study.get_trials(deepcopy=False)):
        return
    for params in known_templates(search_study.config)[: search_study.n_trials]:
        search_study.enqueue(params)


def known_templates(study_config: StudyConfig) -> list[dict[str, Any]]:
    """The plan of the best published networks and the seeds', filled, with our own training."""
    plans = [defaults.TEMPLATE, *(recipe.params for recipe in BASELINES.values() if recipe.params)]
    return [scaled_to_budget(study_config, {**plan, **defaults.TRAINING_PARAMS}) for plan in plans]


def enqueue_best(search_study: SearchStudy, smaller: StudyRecord) -> None:
    """Put the best of a smaller budget first, scaled to fill this one; propose by all it has learned."""
    for trial in smaller.ranked[:CARRIED_UP]:
        search_study.enqueue(scaled_to_budget(search_study.config, trial.params))


def scaled_to_budget(study_config: StudyConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    """The given params with widths of the same proportions that fill the budget."""
    # Bounds are kept by the filling: clipped to them before, wide plans would lose their shape.
    shape = {name: params[name] for name in study_config.space.width_params if name in params}
    return study_config.parameter_budget.fill(project_to_space(study_config, params) | shape)


def project_to_space(study_config: StudyConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    """A full set of params of this space, as near to the given ones as its bounds allow."""
    return {
        name: _clip(param, params[name]) if name in params else _default_value(param)
        for name, param in study_config.space.distributions.items()
    }


def _clip(param: BaseDistribution, value: Any) -> Any:
    if isinstance(param, IntDistribution | FloatDistribution):
        return type(param.low)(np.clip(value, param.low, param.high))
    return value


def _default_value(param: BaseDistribution) -> Any:
    """What a param is that nobody chose: as little as there is of it, or the first choice."""
    if isinstance(param, IntDistribution | FloatDistribution):
        return param.low
    return param.to_external_repr(0)
