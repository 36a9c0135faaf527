"""Baseline seed-002: convolutions with biases 4-8-16-32-64-10, batch norm without learned parameters.

Source: 3338921d21c41d89. Cost: 20 epochs. Reported: 25,290 parameters, 98.6 % on the test set after 20 epochs.
Command: mnist-search reproduce seed-002
"""

from experiments.recipe import Recipe, ReportedResult, block_widths
from search_space import architecture as arch
from search_space.training_config import SGD, TrainingConfig


def _block(channels: int, padding: int = 1) -> tuple[arch.Layer, ...]:
    return (arch.Conv(channels, padding=padding, bias=True), arch.ReLU(), arch.BatchNorm(affine=False))


RECIPE = Recipe(
    name="seed-002",
    source="3338921d21c41d89",
    architecture=arch.Architecture(
        (
            *_block(4),
            *_block(8),
            arch.MaxPool(),
            arch.Dropout(0.1),
            *_block(16),
            *_block(32),
            arch.MaxPool(),
            arch.Dropout(0.1),
            *_block(64, padding=0),
            arch.Conv(10, kernel_size=1, bias=True),
            arch.GlobalAvgPool(),
            arch.Flatten(),
        )
    ),
    training=TrainingConfig(epochs=20, batch_size=128, optimizer=SGD(0.01, momentum=0.9)),
    reported=ReportedResult(
        num_params=25_290, test_accuracy=0.986, wording="98.6 % on the test set after 20 epochs, one run"
    ),
    assumed="ReLU before batch norm, dropout 0.1, SGD with learning rate 0.01 and momentum 0.9, constant",
    params=block_widths(4, 8, 16, 32, 64)
    | {
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
