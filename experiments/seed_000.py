"""Baseline seed-000: no biases, BN-ReLU-dropout 0.05 after every convolution, global average pooling as head.

Source: e310d388ce63df15. Cost: 15 epochs. Reported: 8,932 parameters, 99.50 % on the test set at its best epoch.
Assumed: a constant learning rate.
Command: mnist-search reproduce seed-000
"""

from experiments.recipe import Recipe, ReportedResult, baseline_params
from search_space import architecture as arch
from search_space.training_config import SGD, Augmentation, TrainingConfig


def _block(channels: int, kernel_size: int = 3, padding: int = 0) -> tuple[arch.Layer, ...]:
    return (arch.Conv(channels, kernel_size, padding), arch.BatchNorm(), arch.ReLU(), arch.Dropout(0.05))


_STEM = (*_block(4), *_block(4), *_block(8), arch.MaxPool(), *_block(8, kernel_size=1))
_BODY = (*_block(16), *_block(16), *_block(16, padding=1), *_block(16, padding=1))
_HEAD = (arch.Conv(10, kernel_size=1), arch.GlobalAvgPool(), arch.Flatten())
_ROTATION = Augmentation(rotation=35, interpolation="nearest")

RECIPE = Recipe(
    name="seed-000",
    architecture=arch.Architecture((*_STEM, *_BODY, *_HEAD)),
    training=TrainingConfig(epochs=15, batch_size=128, optimizer=SGD(0.1), augmentation=_ROTATION),
    reported=ReportedResult(8_932, 0.9950, "99.50 % on the test set, best of 15 epochs, one run"),
    params=baseline_params(
        4, 4, 8, 16, 16, 16, 16, transition_width=8, pool_1=3, dropout=0.05, sgd_lr=0.1, augmentation=1.0
    ),
)
