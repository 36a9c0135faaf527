"""Distinct configurations of a space: earlier ones, and their number if the space is small."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from experiments import StudyConfig
from mnist_search.errors import UsageError
from search_space import SearchSpace, TrialConfig
from search_space.ranges import invalid_params, range_of

DRAWS_PER_TRIAL = 100
"""Random draws of a finite space, per requested trial; some configurations are drawn less often than others."""


class EarlierConfigs:
    """The configurations of trials, to find whether a proposal decodes to one of them."""

    def __init__(self, space: SearchSpace, trials: Sequence[FrozenTrial]) -> None:
        self._space = space
        self._by_count: defaultdict[int, list[Mapping[str, Any]]] = defaultdict(list)
        for trial in trials:
            params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            is_valid = invalid_params(space.distributions, params) is None
            if is_valid and space.distributions.keys() <= params.keys():
                count = trial.user_attrs.get("num_params") or space.architecture(params).num_params()
                self._by_count[count].append(params)

    def __contains__(self, params: Mapping[str, Any]) -> bool:
        """Whether a trial has this configuration: the params that it uses are equal."""
        config = self._space.decode(params)
        same_size = self._by_count.get(config.architecture.num_params(), ())
        return any(self._space.decode(each) == config for each in same_size)


def check_size(config: StudyConfig, n_trials: int) -> None:
    """Check that the space has a configuration within the budget for every trial.

    Raises:
        UsageError: it has fewer; every one is trained once.
    """
    number = n_configurations(config, n_trials)
    if number < n_trials:
        raise UsageError(
            f"the search space has {number} configurations of at most {config.budget:,} parameters, fewer than "
            f"--trials {n_trials}; request at most {number} trials, or widen the ranges of params"
        )


def n_configurations(config: StudyConfig, enough: int) -> int:
    """Number of distinct configurations within the budget, counted up to ``enough`` by random draws."""
    space, budget = config.space, config.parameter_budget
    if not space.is_finite:
        return enough
    rng, found = np.random.RandomState(0), set[TrialConfig]()
    for _ in range(DRAWS_PER_TRIAL * enough):
        if len(found) >= enough:
            break
        params = space.draw(rng) | _draw_others(space, rng)
        params = budget.scale_to_budget(params) if config.fill else params
        if budget.fits(params):
            found.add(space.decode(params))
    return len(found)


def _draw_others(space: SearchSpace, rng: np.random.RandomState) -> dict[str, Any]:
    """Draw the params that do not determine the architecture."""
    names = space.distributions.keys() - space.architecture_params.keys()
    return {name: _draw(space.distributions[name], rng) for name in sorted(names)}


def _draw(distribution: BaseDistribution, rng: np.random.RandomState) -> Any:
    if isinstance(distribution, IntDistribution | FloatDistribution):
        step = distribution.step or 0.0  # of a continuous param, which has one value or is unused
        steps = round((distribution.high - distribution.low) / step) if step else 0
        return distribution.low + step * rng.randint(steps + 1)
    values = range_of(distribution)
    return values[rng.randint(len(values))]
