"""Baseline seed-000: no biases, BN-ReLU-dropout 0.05 after every convolution, global average pooling as head.

Source: e310d388ce63df15. Cost: 15 epochs. Reported: 8,932 parameters, 99.50 % on the test set at its best epoch.
Command: mnist-search reproduce seed-000
"""

from experiments.recipe import Recipe, ReportedResult, block_widths
from search_space import architecture as arch
from search_space.training_config import SGD, Augmentation, TrainingConfig


def _block(channels: int, kernel_size: int = 3, padding: int = 0) -> tuple[arch.Layer, ...]:
    return (arch.Conv(channels, kernel_size, padding), arch.BatchNorm(), arch.ReLU(), arch.Dropout(0.05))


RECIPE = Recipe(
    name="seed-000",
    source="e310d388ce63df15",
    architecture=arch.Architecture(
        (
            *_block(4),
            *_block(4),
            *_block(8),
            arch.MaxPool(),
            *_block(8, kernel_size=1),
            *_block(16),
            *_block(16),
            *_block(16, padding=1),
            *_block(16, padding=1),
            arch.Conv(10, kernel_size=1),
            arch.GlobalAvgPool(),
            arch.Flatten(),
        )
    ),
    training=TrainingConfig(
        epochs=15,
        batch_size=128,
        optimizer=SGD(0.1, momentum=0.9),
        augmentation=Augmentation(rotation=35, interpolation="nearest"),
    ),
    reported=ReportedResult(
        num_params=8_932, test_accuracy=0.9950, wording="99.50 % on the test set, best of 15 epochs, one run"
    ),
    assumed="a constant learning rate",
    params=block_widths(4, 4, 8, 16, 16, 16, 16)
    | {
        "transition_width": 8,
        "pool_1": 3,
        "pool_2": 0,
        "padding": "valid",
        "transition": True,
        "head": "gap",
        "dropout": 0.05,
        "optimizer": "sgd",
        "sgd_lr": 0.1,
        "schedule": "constant",
        "augmentation": 1.0,
        "batch_size": 128,
    },
)
