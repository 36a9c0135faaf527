"""Seed 002: convolutions with biases 4-8-16-32-64-10, batch norm without learned parameters.

Source: 3338921d21c41d89. Cost: 20 epochs. Claim: 25,290 parameters, 98.6 % on test after 20 epochs.
Command: mnist-search reproduce seed-002
"""

from experiments.recipe import Recipe, ReportedResult
from search_space.architecture import (
    Architecture,
    BatchNorm,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Layer,
    MaxPool,
    ReLU,
)
from search_space.training_config import SGD, TrainingConfig


def _block(channels: int, padding: int = 1) -> tuple[Layer, ...]:
    return (Conv(channels, padding=padding, bias=True), ReLU(), BatchNorm(affine=False))


RECIPE = Recipe(
    name="seed-002",
    source="3338921d21c41d89",
    architecture=Architecture(
        (
            *_block(4),
            *_block(8),
            MaxPool(),
            Dropout(0.1),
            *_block(16),
            *_block(32),
            MaxPool(),
            Dropout(0.1),
            *_block(64, padding=0),
            Conv(10, kernel_size=1, bias=True),
            GlobalAvgPool(),
            Flatten(),
        )
    ),
    training=TrainingConfig(epochs=20, batch_size=128, optimizer=SGD(0.01, momentum=0.9)),
    reported=ReportedResult(
        num_params=25_290,
        test_accuracy=0.986,
        wording="98.6 % on test after 20 epochs, one run",
    ),
    assumed="ReLU before norm, dropout 0.1, SGD 0.01 with momentum 0.9 at a constant rate",
    params={
        "depth": 5,
        "width_1": 4,
        "width_2": 8,
        "width_3": 16,
        "width_4": 32,
        "width_5": 64,
        "pool_1": 2,
        "pool_2": 2,
        "padding": "same",
        "transition": False,
        "head": "gap",
        "dropout": 0.1,
        "optimizer": "sgd",
        "sgd_lr": 0.01,
        "schedule": "constant",
        "augmentation": 0.0,
        "batch_size": 128,
    },
)
