"""Baseline seed-003: padded convolutions 8-16-32, each with max pooling, and a fully connected head 288-32-10.

Source: aee73f9bf4752610. Cost: 19 epochs. Reported: 15,578 parameters, 99.43 % on the test set.
Command: mnist-search reproduce seed-003
"""

from experiments.recipe import Recipe, ReportedResult
from search_space import architecture as arch
from search_space.training_config import Adam, Augmentation, OneCycle, TrainingConfig


def _block(channels: int) -> tuple[arch.Layer, ...]:
    return (arch.Conv(channels, padding=1, bias=True), arch.BatchNorm(), arch.ReLU(), arch.MaxPool())


_BODY = (*_block(8), *_block(16), *_block(32), arch.Dropout(0.4))
_HEAD = (arch.Flatten(), arch.Linear(32), arch.ReLU(), arch.Dropout(0.4), arch.Linear(10))

RECIPE = Recipe(
    name="seed-003",
    architecture=arch.Architecture((*_BODY, *_HEAD)),
    training=TrainingConfig(
        epochs=19,
        batch_size=128,
        optimizer=Adam(0.003, weight_decay=1e-4),
        schedule=OneCycle(pct_start=0.2, div_factor=10, final_div_factor=100),
        augmentation=Augmentation(rotation=10, translation=(0.1, 0.1), interpolation="nearest"),
    ),
    reported=ReportedResult(15_578, 0.9943, "99.43 % on the test set, last of 19 epochs, one run"),
)
