"""Baseline seed-002: convolutions with biases 4-8-16-32-64-10, batch norm without learned parameters.

Source: 3338921d21c41d89. Cost: 20 epochs. Reported: 25,290 parameters, 98.6 % on the test set after 20 epochs.
Assumed: ReLU before batch norm, dropout 0.1, SGD with learning rate 0.01 and momentum 0.9, constant.
Command: mnist-search reproduce seed-002
"""

from experiments.recipe import Recipe, ReportedResult, baseline_params
from search_space import architecture as arch
from search_space.training_config import SGD, TrainingConfig


def _block(channels: int, padding: int = 1) -> tuple[arch.Layer, ...]:
    return (arch.Conv(channels, padding=padding, bias=True), arch.ReLU(), arch.BatchNorm(affine=False))


_POOL = (arch.MaxPool(), arch.Dropout(0.1))
_BODY = (*_block(4), *_block(8), *_POOL, *_block(16), *_block(32), *_POOL, *_block(64, padding=0))
_HEAD = (arch.Conv(10, kernel_size=1, bias=True), arch.GlobalAvgPool(), arch.Flatten())

RECIPE = Recipe(
    name="seed-002",
    architecture=arch.Architecture((*_BODY, *_HEAD)),
    training=TrainingConfig(epochs=20, batch_size=128, optimizer=SGD(0.01, momentum=0.9)),
    reported=ReportedResult(25_290, 0.986, "98.6 % on the test set after 20 epochs, one run"),
    params=baseline_params(
        4, 8, 16, 32, 64, pool_2=2, padding="same", transition=False, dropout=0.1, sgd_lr=0.01
    ),
)
