"""Baseline seed-004: ReLU before batch norm, dropout 0.1, a 1x1 convolution before the only max pooling, linear head.

Source: 131861b3967ff315. Cost: 20 epochs. Reported: 11,588 parameters, 99.28 % on the test set.
Assumed: a constant learning rate of 0.01 with momentum 0.9, no augmentation.
Command: mnist-search reproduce seed-004
"""

from experiments.recipe import Recipe, ReportedResult, baseline_params
from search_space import architecture as arch
from search_space.training_config import SGD, TrainingConfig


def _block(channels: int) -> tuple[arch.Layer, ...]:
    return (arch.Conv(channels, bias=True), arch.ReLU(), arch.BatchNorm(), arch.Dropout(0.1))


_STEM = (*_block(16), *_block(32), arch.Conv(10, kernel_size=1, bias=True), arch.MaxPool())
_BODY = (*_block(16), *_block(16), *_block(16))
_HEAD = (arch.GlobalAvgPool(), arch.Flatten(), arch.Linear(10))

RECIPE = Recipe(
    name="seed-004",
    architecture=arch.Architecture((*_STEM, *_BODY, *_HEAD)),
    training=TrainingConfig(epochs=20, batch_size=128, optimizer=SGD(0.01, momentum=0.9)),
    reported=ReportedResult(11_588, 0.9928, "99.28 % on the test set, last and best of 20 epochs, one run"),
    params=baseline_params(16, 32, 16, 16, 16, transition_width=10, dropout=0.1, sgd_lr=0.01),
)
