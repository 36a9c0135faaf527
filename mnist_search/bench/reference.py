"""The reference network of about 7,500 parameters, as params and as a recipe."""

from __future__ import annotations

from typing import Any

from optuna.trial import FixedTrial

from experiments import StudyConfig, defaults
from experiments.recipe import Recipe, ReportedResult
from search_space import SearchSpace

BUDGET = 8000

PARAMS: dict[str, Any] = {
    **defaults.TEMPLATE,
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


def study_config(epochs: int, train_images: int, val_images: int) -> StudyConfig:
    """A search under which every trial trains to its end."""
    space = SearchSpace.for_budget(BUDGET, epochs=epochs)
    return StudyConfig(
        budget=BUDGET, space=space, pruner="none", train_images=train_images, val_images=val_images
    )


def recipe(**params: Any) -> Recipe:
    """The reference, but for ``params``, as something that any loop can train."""
    config = SearchSpace.for_budget(BUDGET).suggest(FixedTrial(PARAMS | params))
    count = config.architecture.num_params()
    return Recipe(
        name="reference",
        source="ours",
        architecture=config.architecture,
        training=config.training,
        reported=ReportedResult(num_params=count, test_accuracy=0.0, wording="none: it is here to be timed"),
    )
