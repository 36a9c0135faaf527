"""Optuna's samplers, wrapped so that every proposal is within the parameter budget."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from experiments import StudyConfig
from mnist_search.errors import StudyConflict, UsageError
from mnist_search.search.configurations import EarlierConfigs
from mnist_search.search.mutation import MutationSampler
from search_space.ranges import single_value

SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed, multivariate=True, constant_liar=True),
    "random": lambda seed: RandomSampler(seed=seed),
    "gp": lambda seed: GPSampler(seed=seed, warn_independent_sampling=False),
    "mutation": MutationSampler,
}
"""Factories of samplers, by name; they take a seed."""

UNSUPPORTED = {
    "grid": "a grid over this space has more than 10^13 cells",
    "bruteforce": "the space has more than 10^13 configurations",
    "nsgaiii": "it is for several objectives and a study has one",
    "auto": "it downloads its code at run time",
    "cmaes": "version 0.2.0 removed it, because it does not model categorical params",
    "qmc": "version 0.2.0 removed it, because it does not learn from trials",
    "nsgaii": "version 0.2.0 removed it, because it is for several objectives and a study has one",
}

FULLY_RELATIVE = {"tpe", "mutation"}
"""Samplers that propose every param jointly; inferring that from 500 trials doubles the time of a proposal."""
MAX_REPAIRS = 10_000
"""Enough to find the last configuration of a space with a thousand."""

MAX_DRAWS = {"gp": 4}
"""Fewer draws for a sampler that takes about a second for a proposal."""


class _BufferedStorage:
    """Buffers the system attributes that a sampler writes to its trial; delegates everything else."""

    def __init__(self, storage: BaseStorage, trial_id: int) -> None:
        self._storage, self._trial_id = storage, trial_id
        self.attributes: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        assert trial_id == self._trial_id
        self.attributes[key] = value

    def flush(self, params: Mapping[str, Any]) -> None:
        """Write the attributes, with these params as the joint proposal."""
        for key, value in self.attributes.items():
            text = value
            if ":relative_params:" in key:  # JSON in parts ":0", ":1", ...; an empty part ends it
                text = json.dumps(params) if key.endswith(":0") else ""
            self._storage.set_trial_system_attr(self._trial_id, key, text)

    def get_all_trials(self, *args: Any, **kwargs: Any) -> list[FrozenTrial]:
        trials = list(self._storage.get_all_trials(*args, **kwargs))
        for index, trial in enumerate(trials):
            if trial._trial_id == self._trial_id:
                trials[index] = copy.copy(trial)
                trials[index].system_attrs = trial.system_attrs | self.attributes
        return trials


class BudgetSampler(BaseSampler):
    """Wraps a sampler and draws until the whole configuration fits.

    Params that the wrapped sampler does not propose jointly are drawn independently, so that a
    configuration is complete before the trial gets any param. Params with one value are fixed. Params
    that a trial already has, enqueued or from an interrupted attempt, are kept. Optuna's samplers share
    a joint proposal with other workers by writing it to the trial; here only the proposal that is used
    is written.

    Args:
        sampler: the wrapped sampler.
        space: every param that ``fits``, which accepts or rejects a configuration, needs.
        joint: params that the wrapped sampler models jointly; inferred from the trials by default.
        adjust: changes every proposal before ``fits``, such as scaling it to the budget.
        repair: makes a proposal fit after ``max_draws`` rejections.
        max_draws: proposals of the wrapped sampler before ``repair`` is applied.

    ``rejected`` is the number of proposals rejected for the last trial.
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
        self._sampler, self._space, self._joint = sampler, dict(space), joint
        self._fixed = {n: single_value(d) for n, d in space.items() if d.single()}
        self._fits, self._adjust, self._repair, self._max_draws = fits, adjust, repair, max_draws
        self._independent: dict[str, BaseDistribution] = {}
        self.rejected = 0

    def __str__(self) -> str:
        return f"BudgetSampler({self._sampler})"

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Params that the wrapped sampler models jointly, and all others of the space."""
        joint = self._joint or self._sampler.infer_relative_search_space(study, trial)
        joint = {n: d for n, d in joint.items() if n not in self._fixed}
        self._independent = {n: d for n, d in self._space.items() if n not in joint}
        return {**joint, **self._independent}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw a configuration that fits."""
        self.rejected = 0
        presets = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        if self._space and self._space.keys() <= presets.keys():
            return {}
        joint = {n: d for n, d in search_space.items() if n not in self._independent}
        buffer = _BufferedStorage(study._storage, trial._trial_id)
        view = copy.copy(study)
        view._storage = cast("BaseStorage", buffer)
        view._thread_local = study._thread_local  # the cache of trials
        for _ in range(self._max_draws):
            params = self._fixed | dict(self._sampler.sample_relative(view, trial, joint))
            for name, param in self._space.items():
                if name not in params:
                    params[name] = self._sampler.sample_independent(view, trial, name, param)
            proposal = self._adjust(params | presets) | presets
            if self._fits(proposal):
                break
            self.rejected += 1
        else:
            proposal = self._repaired(params, presets, RandomSampler(seed=trial.number), view, trial)
        buffer.flush(proposal)
        return proposal

    def _repaired(
        self,
        params: dict[str, Any],
        presets: dict[str, Any],
        sampler: RandomSampler,
        study: Study,
        trial: FrozenTrial,
    ) -> dict[str, Any]:
        """A repaired proposal, or if it does not fit, the first repaired one of random params that fits."""
        for _ in range(1 if presets else MAX_REPAIRS):  # presets may be over the budget
            proposal = self._repair(params | presets) | presets
            if self._fits(proposal):
                break
            params = {n: sampler.sample_independent(study, trial, n, d) for n, d in self._space.items()}
        return proposal

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw a param outside the space with the wrapped sampler."""
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Reseed the wrapped sampler."""
        self._sampler.reseed_rng()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Call the wrapped sampler."""
        self._sampler.before_trial(study, trial)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Call the wrapped sampler."""
        self._sampler.after_trial(study, trial, state, values)


def check_sampler(name: str) -> None:
    """Check that a sampler can search this space: UsageError if not, StudyConflict for a sampler object."""
    if "." in name:
        raise StudyConflict(
            f"the study is searched with a {name} object; continue it with mnist_search.run_study(sampler=...)"
        )
    if name in UNSUPPORTED:
        raise UsageError(
            f"sampler {name} cannot be used: {UNSUPPORTED[name]}; start a study with --sampler tpe"
        )
    if name not in SAMPLERS:
        raise UsageError(f"no sampler {name!r}; --sampler takes {', '.join(SAMPLERS)}")


def class_path(sampler: BaseSampler) -> str:
    """The name by which a StudyConfig notes a sampler object: module and class."""
    return f"{type(sampler).__module__}.{type(sampler).__qualname__}"


def sampler_for_trial(
    study_config: StudyConfig,
    number: int,
    sampler: BaseSampler | None = None,
    earlier: Sequence[FrozenTrial] = (),
) -> BudgetSampler:
    """Create the sampler of one trial; ``sampler`` replaces the one that the StudyConfig names.

    A configuration of an ``earlier`` trial is not proposed again.

    It is seeded by the study's seed and the trial's number, so that an interrupted study makes the
    same proposals as an uninterrupted one. Samplers read all that they learn from the store. A
    given sampler keeps its own state and seed.
    """
    name, budget = study_config.sampler, study_config.parameter_budget
    if sampler is None:
        check_sampler(name)
        sampler = SAMPLERS[name](derive_seed(study_config.seed, number))
    params = study_config.space.distributions
    known = EarlierConfigs(study_config.space, earlier)
    return BudgetSampler(
        sampler,
        params,
        lambda proposal: budget.fits(proposal) and proposal not in known,
        joint=dict(sorted(params.items())) if name in FULLY_RELATIVE else None,
        adjust=budget.scale_to_budget if study_config.fill else dict,
        repair=budget.scale_to_budget,
        max_draws=MAX_DRAWS.get(name, 100),
    )


def derive_seed(*entropy: int) -> int:
    """Derive a 32-bit seed from numbers; neighboring numbers give unrelated streams."""
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def trial_seed(study_config: StudyConfig, number: int) -> int:
    """The seed of a trial's weights, batches and augmentation."""
    return derive_seed(study_config.seed, number, 1)
