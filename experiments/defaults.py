"""Default training configuration and default template.

Purpose: train any architecture the same way, to separate the effect of architecture and training.
Source: common settings of the best published networks of 6,000 to 10,000 parameters: SGD with
momentum, a one-cycle schedule per step that ends near zero, batch size 64, small affine maps, 15 epochs.
Cost: 15 epochs.
Command: mnist-search reproduce all
"""

from collections.abc import Mapping
from typing import Any

from experiments.recipe import block_params
from search_space import SearchSpace

TRAINING_PARAMS: Mapping[str, Any] = {
    "optimizer": "sgd",
    "sgd_lr": 0.1,
    "adamw_lr": 0.01,
    "weight_decay": 1e-4,
    "schedule": "one_cycle",
    "batch_size": 64,
    "label_smoothing": 0.0,
    "augmentation": 0.5,
}
"""The default training configuration as params of the search space; the rate of AdamW is for a space without SGD."""

TRAINING = SearchSpace(epochs=15, cycle_momentum=True).training(TRAINING_PARAMS)

TEMPLATE: Mapping[str, Any] = block_params(
    8, 16, 12, 16, 20, transition_width=8, pool_1=2, pool_2=0, padding="valid", transition=True
) | {"head": "gap_hidden", "dropout": 0.05, "dropout_per": "element"}
"""Architecture of the best published networks of 6,000 to 8,000 parameters, as params of the space.

A transition after the first pooling, no padding, no second pooling, global average pooling; see
published.json. Their authors selected it on the test set, which biases its test accuracy upwards.
"""
