"""The reference network of about 7,500 parameters, and the images that it trains on."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from optuna.trial import FixedTrial

from experiments import StudyConfig, defaults
from experiments.recipe import Recipe, ReportedResult
from mnist_search.data.dataset import Split, load_split
from search_space import SearchSpace

BUDGET = 8000

_CHANGES = {"width_6": 8, "width_7": 8, "sgd_lr": 0.05, "adamw_lr": 0.01, "batch_size": 128}
PARAMS: dict[str, Any] = {**defaults.TEMPLATE, **defaults.TRAINING_PARAMS, **_CHANGES}
"""Widths 8-16, max pool, 1x1 convolution to 8, 12-16-20, global average pool; batches of 128."""


def study_config(**values: Any) -> StudyConfig:
    """A study without a pruner, so that every trial trains all epochs; ``values`` replace default ones."""
    return StudyConfig.for_budget(BUDGET, pruner="none", **values)


def recipe(**params: Any) -> Recipe:
    """The reference as a recipe, with ``params`` replaced."""
    config = SearchSpace.for_budget(BUDGET).suggest(FixedTrial(PARAMS | params))
    architecture, training = config.architecture, config.training
    reported = ReportedResult(architecture.num_params(), test_accuracy=0.0, wording="none; for timing only")
    return Recipe(name="reference", architecture=architecture, training=training, reported=reported)


@cache
def cached_split(data_dir: Path, device: str) -> Split:
    """50,000 training and 10,000 validation images on ``device``, read once per process."""
    return load_split(data_dir, train=50_000, val=10_000, seed=0, device=torch.device(device))
