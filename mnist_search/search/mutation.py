"""Evolution as an Optuna sampler: mutations of the best trials."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

N_CHANGED = 2.0
"""Expected number of params that a mutation changes, beside the one that it always changes."""

SCALE = 0.2
"""Standard deviation of the change of a number, as a share of its range."""


class MutationSampler(BaseSampler):
    """Proposes mutations of the best trials.

    Like regularised evolution (arXiv 1802.01548), but the parent is one of the best ``n_parents`` of all
    trials rather than of a tournament among the latest, since a study has tens of trials. Trials that were
    pruned later rank before trials that were pruned earlier, as in TPE.

    Args:
        seed: of the random numbers; None for a random one.
        n_startup_trials: number of finished trials before the first mutation; random proposals until then.
        n_parents: number of trials that are mutated.
    """

    def __init__(self, seed: int | None = None, n_startup_trials: int = 10, n_parents: int = 5) -> None:
        self._rng = np.random.RandomState(seed)
        self._random = RandomSampler(seed=seed)
        self._n_startup_trials, self._n_parents = n_startup_trials, n_parents
        self._space = IntersectionSearchSpace(include_pruned=True)

    def reseed_rng(self) -> None:
        """Draw other random numbers."""
        self._rng.seed()
        self._random.reseed_rng()

    def infer_relative_search_space(
        self,
        study: Study,
        trial: FrozenTrial,  # noqa: ARG002 - of Optuna's interface
    ) -> dict[str, BaseDistribution]:
        """Params that all trials have, but those with one value."""
        space = self._space.calculate(study)
        return {name: distribution for name, distribution in space.items() if not distribution.single()}

    def sample_relative(
        self,
        study: Study,
        trial: FrozenTrial,  # noqa: ARG002 - of Optuna's interface
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """A mutation of a trial; nothing before there are enough."""
        ranked = _ranked(study)
        parents = [each for each in ranked[: self._n_parents] if search_space.keys() <= each.params.keys()]
        if len(ranked) < self._n_startup_trials or not parents or not search_space:
            return {}
        params = dict(parents[self._rng.randint(len(parents))].params)
        names = list(search_space)
        changed = {names[self._rng.randint(len(names))]}
        changed |= {name for name in names if self._rng.uniform() < N_CHANGED / len(names)}
        values = {name: params[name] for name in names}
        return values | {n: _mutated(values[n], search_space[n], self._rng) for n in names if n in changed}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)


def _ranked(study: Study) -> list[FrozenTrial]:
    """Complete trials, best first, then pruned ones, those with the most steps first."""
    sign = 1 if study.direction == StudyDirection.MAXIMIZE else -1

    def key(trial: FrozenTrial) -> tuple[bool, float, float]:
        is_complete, step = trial.state == TrialState.COMPLETE, trial.last_step or 0
        value = trial.value if is_complete else trial.intermediate_values.get(step)
        return (
            is_complete,
            0 if is_complete else step,
            sign * (value if value is not None else -math.inf * sign),
        )

    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    return sorted(trials, key=key, reverse=True)


def _mutated(value: Any, distribution: BaseDistribution, rng: np.random.RandomState) -> Any:
    """Another value of a distribution: any choice, or a number nearby."""
    if isinstance(distribution, CategoricalDistribution):
        others = [choice for choice in distribution.choices if choice != value]
        return others[rng.randint(len(others))] if others else value
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high = distribution.low, distribution.high
    if distribution.log:
        changed = np.clip(value * (high / low) ** (SCALE * rng.normal()), low, high)
        return round(changed) if isinstance(distribution, IntDistribution) else float(changed)
    step = distribution.step or 0.0
    change = SCALE * (high - low) * rng.normal()
    if not step:
        return float(np.clip(value + change, low, high))
    steps = round(change / step) or _sign(change)
    return type(low)(np.clip(round((value - low) / step) + steps, 0, round((high - low) / step)) * step + low)


def _sign(change: float) -> int:
    return 1 if change > 0 else -1
