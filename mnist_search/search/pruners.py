"""Optuna's pruners, wrapped so that a trial over the parameter budget is never trained."""

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
"""Factories of Optuna's pruners, by name; they take the epochs of a complete training run.

Hyperband assigns trials to brackets, but here the sampler learns from all of them: Optuna filters
trials by bracket only if the study's pruner is a HyperbandPruner itself.
"""


def warmup(epochs: int) -> int:
    """Epochs before a pruner other than Hyperband prunes a trial, so that schedules with a slow start are not disadvantaged."""
    return max(1, epochs // 3)


class ParameterBudgetPruner(BasePruner):
    """Prunes trials over the parameter budget, and otherwise defers to the wrapped pruner.

    It works before the first report, for trials that were enqueued, edited or resumed.
    """

    def __init__(self, pruner: BasePruner, budget: ParameterBudget) -> None:
        self._pruner = pruner
        self._budget = budget

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether to prune the trial."""
        return not self._budget.fits(trial.params) or self._pruner.prune(study, trial)


def check_pruner(name: str) -> None:
    """Check that a pruner exists.

    Raises:
        UsageError: with the available names.
    """
    if name not in PRUNERS:
        raise UsageError(f"no pruner {name!r}; --pruner takes {', '.join(PRUNERS)}")


def pruner_for(study_config: StudyConfig) -> ParameterBudgetPruner:
    """Create the pruner of a study."""
    check_pruner(study_config.pruner)
    score_pruner = PRUNERS[study_config.pruner](study_config.space.epochs)
    return ParameterBudgetPruner(score_pruner, study_config.parameter_budget)
