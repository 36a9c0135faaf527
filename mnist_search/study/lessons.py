"""What the trials of smaller budgets teach the proposals of a larger one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from experiments import Experiment
from mnist_search.study import reading
from mnist_search.study.store import Store

SMALLER = "smaller"
"""The study of the next smaller budget, which this one learns from."""

COMPLETE = (TrialState.COMPLETE,)

Lessons: TypeAlias = Sequence[Sequence[FrozenTrial]]
"""Complete trials of every smaller budget, as points of this space."""


def lessons(store: Store, study: optuna.Study, experiment: Experiment) -> Lessons:
    """Every complete trial of the smaller budgets, its widths scaled to fill this one's."""
    found, name = [], study.user_attrs.get(SMALLER)
    while name in optuna.get_all_study_names(store.storage):
        smaller = reading.load(store, name)
        found.append(
            [_translated(t, experiment) for t in smaller.get_trials(deepcopy=False, states=COMPLETE)]
        )
        name = smaller.user_attrs.get(SMALLER)
    return [trials for trials in found if trials]


def _translated(trial: FrozenTrial, experiment: Experiment) -> FrozenTrial:
    genes = filled(experiment, trial.params)
    return create_trial(params=genes, distributions=experiment.space.distributions, value=trial.value)


def taught(study: optuna.Study, known: Lessons) -> tuple[optuna.Study, FrozenTrial]:
    """The study in memory, together with what is known from elsewhere, and a trial to propose for.

    A smaller budget's scores are shifted so that its best equals the best so far: samplers rank,
    and the largest networks would otherwise outrank all that was learned from the smaller ones.
    """
    own = study.get_trials(deepcopy=False, states=(*COMPLETE, TrialState.PRUNED))
    memory = optuna.create_study(direction=study.direction)
    best = max((t.value for t in own if t.value is not None), default=None)
    for trials in known:
        values = [t.values[0] for t in trials]
        shift = 0.0 if best is None else best - max(values)
        memory.add_trials(
            create_trial(params=t.params, distributions=t.distributions, value=value + shift)
            for t, value in zip(trials, values, strict=True)
        )
    memory.add_trials(own)
    memory.ask()
    return memory, memory.get_trials(deepcopy=False)[-1]


def filled(experiment: Experiment, genes: Mapping[str, Any]) -> dict[str, Any]:
    """The given genes with widths of the same proportions that fill the budget."""
    # Bounds are kept by the filling: clipped to them before, wide plans would lose their shape.
    shape = {name: genes[name] for name in experiment.space.width_genes if name in genes}
    return experiment.parameter_budget.fill(nearest(experiment, genes) | shape)


def nearest(experiment: Experiment, genes: Mapping[str, Any]) -> dict[str, Any]:
    """A full set of genes of this space, as near to the given ones as its bounds allow."""
    return {
        name: _within(gene, genes[name]) if name in genes else _middle(gene)
        for name, gene in experiment.space.distributions.items()
    }


def _within(gene: BaseDistribution, value: Any) -> Any:
    if isinstance(gene, IntDistribution | FloatDistribution):
        return type(gene.low)(np.clip(value, gene.low, gene.high))
    return value


def _middle(gene: BaseDistribution) -> Any:
    """What a gene is that nobody chose: as little as there is of it, or the first choice."""
    if isinstance(gene, IntDistribution | FloatDistribution):
        return gene.low
    return gene.to_external_repr(0)
