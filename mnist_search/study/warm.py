"""Trials that are put first: what is known to be good already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from experiments import SEEDS, Experiment, ours
from mnist_search.facts import StudyFacts
from mnist_search.study.ledger import Ledger

CARRIED_UP = 3
"""How many networks of a smaller budget a larger one begins with."""


def enqueue_seeds(ledger: Ledger) -> list[str]:
    """Put the seeds that fit first, as near as the space comes to them; names of those that fit.

    A seed that was put there before is not put there again.
    """
    fitting = {
        name: genes
        for name, recipe in SEEDS.items()
        if recipe.genes
        for genes in [nearest(ledger.experiment, recipe.genes)]
        if ledger.experiment.parameter_budget.fits(genes)
    }
    for genes in fitting.values():
        ledger.enqueue(genes)
    return list(fitting)


def enqueue_plans(ledger: Ledger) -> None:
    """Have a new study begin with known plans, as far as there are places.

    None is put there twice, and none in a study that has begun.
    """
    if any(trial.state != TrialState.WAITING for trial in ledger.study.get_trials(deepcopy=False)):
        return
    for genes in known_plans(ledger.experiment)[: ledger.target]:
        ledger.enqueue(genes)


def known_plans(experiment: Experiment) -> list[dict[str, Any]]:
    """The plan of the best published networks and the seeds', filled, with our own training."""
    plans = [ours.PLAN, *(recipe.genes for recipe in SEEDS.values() if recipe.genes)]
    return [filled(experiment, {**plan, **ours.TRAINING_GENES}) for plan in plans]


def enqueue_best(ledger: Ledger, smaller: StudyFacts) -> None:
    """Put the best of a smaller budget first, their widths scaled to fill this one."""
    for trial in smaller.ranked[:CARRIED_UP]:
        ledger.enqueue(filled(ledger.experiment, trial.genes))


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
