"""Baseline seed-001: padded convolutions 6-12-24-12-10, global average pooling, a 1x1 convolution with a bias.

Source: cedc7f1e9801118b. Cost: at most 15 epochs. Reported: 7,204 parameters, 99.1-99.3 % on the test set.
The rows of the author's table add up to 7,194; the stated total requires a bias in the last 1x1
convolution, which is therefore included here. The author's fill of 1 is on the scale 0..255.
Assumed: batch size 128; rotation and affine map in one resampling instead of two.
Command: mnist-search reproduce seed-001
"""

from experiments.recipe import Recipe, ReportedResult, baseline_params
from search_space import architecture as arch
from search_space.training_config import Adam, Augmentation, Plateau, TrainingConfig


def _block(channels: int) -> tuple[arch.Layer, ...]:
    return (arch.Conv(channels, padding=1), arch.BatchNorm(), arch.ReLU(), arch.Dropout(0.05))


_BODY = (*_block(6), *_block(12), arch.MaxPool(), *_block(24), *_block(12), arch.MaxPool(), *_block(10))
_HEAD = (arch.GlobalAvgPool(), arch.Conv(10, kernel_size=1, bias=True), arch.Flatten())
_AFFINE = Augmentation(
    rotation=7, translation=(0.1, 0.2), scale=(0.9, 1.1), shear=10, fill=1 / 255, interpolation="nearest"
)

RECIPE = Recipe(
    name="seed-001",
    architecture=arch.Architecture((*_BODY, *_HEAD)),
    training=TrainingConfig(
        epochs=15,
        batch_size=128,
        optimizer=Adam(0.05, weight_decay=1e-7),
        schedule=Plateau(factor=0.1, patience=1, min_lr=1e-6),
        augmentation=_AFFINE,
    ),
    reported=ReportedResult(7_204, 0.993, "99.1-99.3 % on the test set within 15 epochs, one run"),
    params=baseline_params(6, 12, 24, 12, 10, pool_2=2, padding="same", transition=False, dropout=0.05)
    | {"optimizer": "adamw", "adamw_lr": 0.05, "schedule": "plateau", "augmentation": 0.9},
)
