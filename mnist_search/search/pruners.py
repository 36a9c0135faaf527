"""The second line of defence of the budget: what arrives over it never trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
)
from optuna.study import Study
from optuna.trial import FrozenTrial

from experiments import StudyConfig
from mnist_search.errors import UsageError
from search_space import ParameterBudget

PRUNERS: Mapping[str, Callable[[int], BasePruner]] = {
    "asha": lambda epochs: SuccessiveHalvingPruner(min_resource=warmup(epochs), reduction_factor=3),
    "median": lambda epochs: MedianPruner(n_startup_trials=5, n_warmup_steps=warmup(epochs)),
    "percentile": lambda epochs: PercentilePruner(25.0, n_startup_trials=5, n_warmup_steps=warmup(epochs)),
    "hyperband": lambda epochs: HyperbandPruner(min_resource=1, max_resource=epochs, reduction_factor=3),
    "none": lambda _: NopPruner(),
}
"""Optuna's pruners by name, made for a number of epochs.

Under Hyperband every trial belongs to a bracket, but the sampler learns from all brackets:
Optuna only shows a sampler its bracket where the study's own pruner is Hyperband.
"""


def warmup(epochs: int) -> int:
    """Epochs that every trial gets: schedules that start slowly would be killed before."""
    return max(1, epochs // 3)


class ParameterBudgetPruner(BasePruner):
    """Prunes whatever is over the parameter budget, and leaves the rest to another pruner.

    Unlike a score pruner it answers before the first report.
    """

    def __init__(self, pruner: BasePruner, budget: ParameterBudget) -> None:
        self._pruner = pruner
        self._budget = budget

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial must end here."""
        return not self._budget.fits(trial.params) or self._pruner.prune(study, trial)


def check_pruner(name: str) -> None:
    """Refuse a pruner that does not exist.

    Raises:
        UsageError: with the names that do.
    """
    if name not in PRUNERS:
        raise UsageError(f"no pruner {name!r}; --pruner takes {', '.join(PRUNERS)}")


def pruner_for(study_config: StudyConfig) -> ParameterBudgetPruner:
    """The pruner of a study."""
    check_pruner(study_config.pruner)
    score_pruner = PRUNERS[study_config.pruner](study_config.space.epochs)
    return ParameterBudgetPruner(score_pruner, study_config.parameter_budget)
