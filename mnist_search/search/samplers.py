"""The first line of defence of the budget: proposals that do not fit are drawn again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from experiments import StudyConfig
from mnist_search.errors import UsageError

SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed, multivariate=True),
    "random": lambda seed: RandomSampler(seed=seed),
    "gp": lambda seed: GPSampler(seed=seed, warn_independent_sampling=False),
    "cmaes": lambda seed: CmaEsSampler(seed=seed, warn_independent_sampling=False),
    "qmc": lambda seed: QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False),
    "nsgaii": lambda seed: NSGAIISampler(seed=seed),
}
"""Optuna's samplers that can search this space, made from a seed.

CMA-ES and QMC propose the numeric params; the categorical ones are drawn independently.
"""

UNSUPPORTED = {
    "grid": "a grid over this space has more than 10^13 cells",
    "bruteforce": "the space has more than 10^13 configurations",
    "nsgaiii": "it is made for several objectives and a study here has one",
    "auto": "it fetches its code from the network at run time",
}

FULLY_RELATIVE = {"tpe"}
"""Samplers that model every param; to read that off 500 trials takes as long as to propose."""

MAX_DRAWS = {"gp"}
"""Samplers that take about a second for a proposal."""


class BudgetSampler(BaseSampler):
    """Wraps a sampler and draws again until the whole configuration fits.

    It completes what the wrapped sampler proposes jointly by independent draws, so that every
    proposal can be judged before any of it reaches the trial. Params that a trial already has,
    enqueued or left by an interrupted worker, are kept.

    Args:
        sampler: what proposes.
        space: every param that the judgement needs.
        fits: judges a full set of params.
        joint: what the wrapped sampler models jointly; by default it finds out from the trials.
        adjust: changes every proposal before it is judged, such as filling the budget.
        repair: makes a proposal fit when ``max_draws`` in a row did not.
        max_draws: proposals of the wrapped sampler before ``repair`` takes over.

    Attributes:
        rejected: proposals refused for the trial that was sampled last.
    """

    def __init__(
        self,
        sampler: BaseSampler,
        space: Mapping[str, BaseDistribution],
        fits: Callable[[Mapping[str, Any]], bool],
        *,
        joint: Mapping[str, BaseDistribution] | None = None,
        adjust: Callable[[Mapping[str, Any]], dict[str, Any]] = dict,
        repair: Callable[[Mapping[str, Any]], dict[str, Any]] = dict,
        max_draws: int = 100,
    ) -> None:
        self._sampler = sampler
        self._space = dict(space)
        self._fits = fits
        self._joint = joint
        self._adjust = adjust
        self._repair = repair
        self._max_draws = max_draws
        self._independent: dict[str, BaseDistribution] = {}
        self.rejected = 0

    def __str__(self) -> str:
        return f"BudgetSampler({self._sampler})"

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What the wrapped sampler models jointly and every other param of the space."""
        joint = self._joint
        if joint is None:
            joint = self._sampler.infer_relative_search_space(study, trial)
        self._independent = {n: d for n, d in self._space.items() if n not in joint}
        return {**joint, **self._independent}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A configuration that fits."""
        self.rejected = 0
        known = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        if self._space and self._space.keys() <= known.keys():
            return {}
        joint = {n: d for n, d in search_space.items() if n not in self._independent}
        for _ in range(self._max_draws):
            params = self._propose(study, trial, joint) | known
            adjusted = self._adjust(params) | known
            if self._fits(adjusted):
                return adjusted
            self.rejected += 1
        return self._repair(params) | known

    def _propose(
        self, study: Study, trial: FrozenTrial, joint: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        params = dict(self._sampler.sample_relative(study, trial, joint))
        for name, param in self._space.items():
            if name not in params:
                params[name] = self._sampler.sample_independent(study, trial, name, param)
        return params

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A parameter outside the space, as the wrapped sampler draws it."""
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Reseed the wrapped sampler."""
        self._sampler.reseed_rng()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Tell the wrapped sampler."""
        self._sampler.before_trial(study, trial)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Tell the wrapped sampler."""
        self._sampler.after_trial(study, trial, state, values)


def check_sampler(name: str) -> None:
    """Refuse a sampler that does not exist or cannot search this space.

    Raises:
        UsageError: with the reason.
    """
    if name in UNSUPPORTED:
        raise UsageError(f"--sampler {name} cannot be used: {UNSUPPORTED[name]}; try --sampler tpe")
    if name not in SAMPLERS:
        raise UsageError(f"no sampler {name!r}; --sampler takes {', '.join(SAMPLERS)}")


def sampler_for_trial(study_config: StudyConfig, number: int) -> BudgetSampler:
    """The sampler of one trial.

    Each trial has a sampler of its own, seeded by the study's seed and the trial's number, so
    that a study that was interrupted makes the proposals of one that was not. What a sampler
    learns it reads from the store, and from ``known``, the trials of smaller budgets, if it is
    TPE: others keep notes on their trials. QMC keeps one seed: its points form one sequence.
    """
    check_sampler(study_config.sampler)
    name, budget = study_config.sampler, study_config.parameter_budget
    params = study_config.space.distributions
    return BudgetSampler(
        SAMPLERS[name](study_config.seed if name == "qmc" else derive_seed(study_config.seed, number)),
        params,
        budget.fits,
        joint=dict(sorted(params.items())) if name in FULLY_RELATIVE else None,
        adjust=budget.fill if study_config.fill else dict,
        repair=budget.fill,
        max_draws=4 if name in MAX_DRAWS else 100,
    )


def derive_seed(*entropy: int) -> int:
    """A 32-bit seed from numbers, such that neighbours give unrelated streams."""
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def trial_seed(study_config: StudyConfig, number: int) -> int:
    """The seed of a trial's weights, batches and augmentation."""
    return derive_seed(study_config.seed, number, 1)
