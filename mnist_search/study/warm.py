"""Trials that are put first: what is known to be good already."""

from __future__ import annotations

from typing import Any

from optuna.trial import TrialState

from experiments import SEEDS, Experiment, ours
from mnist_search.facts import StudyFacts
from mnist_search.study.ledger import Ledger
from mnist_search.study.lessons import filled, nearest

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
    """Put the best of a smaller budget first, scaled to fill this one; propose by all it has learned."""
    if smaller.name != ledger.name:
        ledger.learn_from(smaller.name)
    for trial in smaller.ranked[:CARRIED_UP]:
        ledger.enqueue(filled(ledger.experiment, trial.genes))
