"""The reference network of about 7,500 parameters, as genes and as a recipe."""

from __future__ import annotations

from typing import Any

from optuna.trial import FixedTrial

from experiments import Experiment, ours
from experiments.recipe import Claim, Recipe
from search_space import SearchSpace

BUDGET = 8000

GENES: dict[str, Any] = {
    **ours.PLAN,
    "width_6": 8,
    "width_7": 8,
    "optimizer": "sgd",
    "sgd_lr": 0.05,
    "adamw_lr": 0.01,
    "weight_decay": 1e-4,
    "schedule": "one_cycle",
    "batch_size": 128,
    "label_smoothing": 0.0,
    "augmentation": 0.5,
}
"""8-16, pool, 1x1 to 8, 12-16-20, average pool, in batches of 128."""


def experiment(epochs: int, train_images: int, val_images: int) -> Experiment:
    """A search under which every trial trains to its end."""
    space = SearchSpace.for_budget(BUDGET, epochs=epochs)
    return Experiment(
        budget=BUDGET, space=space, pruner="none", train_images=train_images, val_images=val_images
    )


def recipe(**genes: Any) -> Recipe:
    """The reference, but for ``genes``, as something that any loop can train."""
    config = SearchSpace.for_budget(BUDGET).suggest(FixedTrial(GENES | genes))
    count = config.architecture.num_params()
    return Recipe(
        name="reference",
        source="ours",
        architecture=config.architecture,
        training=config.training,
        claim=Claim(num_params=count, test_accuracy=0.0, wording="none: it is here to be timed"),
    )
