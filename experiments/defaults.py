"""Our own training, for networks that come without one.

Purpose: to tell what is due to a network from what is due to its training.
Source: what the best published networks of 6,000 to 10,000 parameters have in common: SGD with
momentum and a one-cycle schedule per step that ends near zero, batches of 64, small affine maps,
15 epochs.
Cost: 15 epochs.
Command: mnist-search reproduce all
"""

from collections.abc import Mapping
from typing import Any

from search_space.training_config import SGD, Augmentation, OneCycle, TrainingConfig

TRAINING = TrainingConfig(
    epochs=15,
    batch_size=64,
    optimizer=SGD(0.1, nesterov=True, weight_decay=1e-4),
    schedule=OneCycle(),
    augmentation=Augmentation.of_strength(0.5),
)

TRAINING_PARAMS: Mapping[str, Any] = {
    "optimizer": "sgd",
    "sgd_lr": 0.1,
    "weight_decay": 1e-4,
    "schedule": "one_cycle",
    "batch_size": 64,
    "label_smoothing": 0.0,
    "augmentation": 0.5,
}
"""The same training as a point of the search space."""

TEMPLATE: Mapping[str, Any] = {
    "depth": 5,
    "width_1": 8,
    "width_2": 16,
    "width_3": 12,
    "width_4": 16,
    "width_5": 20,
    "transition_width": 8,
    "pool_1": 2,
    "pool_2": 0,
    "padding": "valid",
    "transition": True,
    "head": "gap_hidden",
    "dropout": 0.05,
    "dropout_per": "element",
}
"""The plan of the best published networks of 6,000 to 8,000 parameters, as a point of the space.

A transition after the first pool, no padding, no second pool, average pooling; see published.json.
Their authors chose it by the test set, so that what it reaches there owes something to that.
"""
