"""The reference network of about 7,500 parameters, and the images that it trains on."""

from __future__ import annotations

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
"""Widths 8-16, max pool, 1x1 convolution to 8, 12-16-20, global average pool; batches of 128."""


def study_config(**values: Any) -> StudyConfig:
    """A study without a pruner, so that every trial trains all epochs; ``values`` replace default ones."""
    return StudyConfig.for_budget(BUDGET, pruner="none", **values)


def recipe(**params: Any) -> Recipe:
    """The reference as a recipe, with ``params`` replaced."""
    config = SearchSpace.for_budget(BUDGET).suggest(FixedTrial(PARAMS | params))
    count = config.architecture.num_params()
    return Recipe(
        name="reference", source="mnist-search", architecture=config.architecture, training=config.training,
        reported=ReportedResult(num_params=count, test_accuracy=0.0, wording="none; for timing only"),
    )  # fmt: skip


@cache
def cached_split(data_dir: Path, device: str) -> Split:
    """50,000 training and 10,000 validation images on ``device``, read once per process."""
    return load_split(data_dir, train=50_000, val=10_000, seed=0, device=torch.device(device))
