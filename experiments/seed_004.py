"""Seed 004: ReLU before norm, dropout 0.1, a 1x1 convolution before the only pooling, linear head.

Source: 131861b3967ff315. Cost: 20 epochs. Claim: 11,588 parameters, 99.28 % on test.
Command: mnist-search reproduce seed-004
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
    Linear,
    MaxPool,
    ReLU,
)
from search_space.training_config import SGD, TrainingConfig


def _block(channels: int) -> tuple[Layer, ...]:
    return (Conv(channels, bias=True), ReLU(), BatchNorm(), Dropout(0.1))


RECIPE = Recipe(
    name="seed-004",
    source="131861b3967ff315",
    architecture=Architecture(
        (
            *_block(16),
            *_block(32),
            Conv(10, kernel_size=1, bias=True),
            MaxPool(),
            *_block(16),
            *_block(16),
            *_block(16),
            GlobalAvgPool(),
            Flatten(),
            Linear(10),
        )
    ),
    training=TrainingConfig(epochs=20, batch_size=128, optimizer=SGD(0.01, momentum=0.9)),
    reported=ReportedResult(
        num_params=11_588,
        test_accuracy=0.9928,
        wording="99.28 % on test at the last of 20 epochs, which is also the best, one run",
    ),
    assumed="a constant learning rate of 0.01 with momentum 0.9, no augmentation",
    params={
        "depth": 5,
        "width_1": 16,
        "width_2": 32,
        "width_3": 16,
        "width_4": 16,
        "width_5": 16,
        "transition_width": 10,
        "pool_1": 2,
        "pool_2": 0,
        "padding": "valid",
        "transition": True,
        "head": "gap",
        "dropout": 0.1,
        "optimizer": "sgd",
        "sgd_lr": 0.01,
        "schedule": "constant",
        "augmentation": 0.0,
        "batch_size": 128,
    },
)
