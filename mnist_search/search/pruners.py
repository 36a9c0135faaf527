"""Screening and Optuna's pruners, wrapped so that a trial over the parameter budget is never trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from optuna import pruners
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from experiments import StudyConfig
from experiments.study_config import rungs
from mnist_search.errors import UsageError
from search_space import ParameterBudget


class ScreeningPruner(pruners.BasePruner):
    """Prunes at the end of a rung all trials but the best quarter that has reached it so far.

    Later proposals are better than earlier ones, so more than a quarter of them would train on: once the
    share ``max_promoted`` of a rung has, only the best trial so far does. The values of a rung are comparable: its trials
    have trained complete schedules up to it (``StudyConfig.training``). Optuna's SuccessiveHalvingPruner
    has geometric rungs, and compares values within running schedules (arXiv 1810.05934).
    """

    def __init__(self, rungs: Sequence[int], *, max_promoted: float = 1 / 3) -> None:
        self._rungs, self._max_promoted = rungs, max_promoted

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether to prune the trial."""
        step = trial.last_step
        if step is None or step not in self._rungs:
            return False
        value = trial.intermediate_values[step]
        others = (t for t in study.get_trials(deepcopy=False) if t.number != trial.number)
        reached = [t for t in others if step in t.intermediate_values]
        n_better = sum(t.intermediate_values[step] > value for t in reached)
        n_promoted = sum(t.state != TrialState.PRUNED or t.last_step != step for t in reached)
        n = len(reached) + 1
        return n_better > 0 and (n_better >= n // PROMOTED_SHARE or n_promoted >= n * self._max_promoted)


PROMOTED_SHARE = 4
"""One of so many trials of a rung trains on."""

PRUNERS: Mapping[str, Callable[[int], pruners.BasePruner]] = {
    "screening": lambda epochs: ScreeningPruner(rungs(epochs)[:-1]),
    "asha": lambda epochs: pruners.SuccessiveHalvingPruner(min_resource=warmup(epochs), reduction_factor=3),
    "median": lambda epochs: pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=warmup(epochs)),
    "percentile": lambda epochs: pruners.PercentilePruner(
        25.0, n_startup_trials=5, n_warmup_steps=warmup(epochs)
    ),
    "hyperband": lambda epochs: pruners.HyperbandPruner(
        min_resource=1, max_resource=epochs, reduction_factor=3
    ),
    "none": lambda _: pruners.NopPruner(),
}
"""Factories of pruners, by name; they take the epochs of a complete training run.

Hyperband assigns trials to brackets, but here the sampler learns from all of them: Optuna filters
trials by bracket only if the study's pruner is a HyperbandPruner itself.
"""


def warmup(epochs: int) -> int:
    """Epochs before a pruner other than Hyperband prunes, so that schedules with a slow start have no disadvantage."""
    return max(1, epochs // 3)


class ParameterBudgetPruner(pruners.BasePruner):
    """Prunes trials over the budget, even before their first report, and defers to the wrapped pruner."""

    def __init__(self, pruner: pruners.BasePruner, budget: ParameterBudget) -> None:
        self._pruner, self._budget = pruner, budget

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether to prune the trial."""
        return not self._budget.fits(trial.params) or self._pruner.prune(study, trial)


def first_decision(config: StudyConfig) -> int:
    """The epoch after which the pruner of a study first decides, at the earliest."""
    epochs = config.space.epochs
    first = {"screening": rungs(epochs)[0], "hyperband": 1, "none": epochs}
    return first.get(config.pruner, warmup(epochs))


def check_pruner(name: str) -> None:
    """Check that a pruner exists; a UsageError names the available ones."""
    if name not in PRUNERS:
        raise UsageError(f"no pruner {name!r}; --pruner takes {', '.join(PRUNERS)}")


def pruner_for(study_config: StudyConfig) -> ParameterBudgetPruner:
    """Create the pruner of a study."""
    check_pruner(study_config.pruner)
    pruner = PRUNERS[study_config.pruner](study_config.space.epochs)
    return ParameterBudgetPruner(pruner, study_config.parameter_budget)
