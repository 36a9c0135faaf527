"""How a network is trained: a frozen, self-validating description without any torch in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class SGD:
    """Stochastic gradient descent; ``lr`` is the peak of the schedule, ``weight_decay`` is L2 in the gradient."""

    lr: float
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0


@dataclass(frozen=True, slots=True)
class Adam:
    """Adam; ``decoupled`` takes the weight decay out of the gradient (AdamW, arXiv 1711.05101)."""

    lr: float
    weight_decay: float = 0.0
    decoupled: bool = False


Optimizer: TypeAlias = SGD | Adam


@dataclass(frozen=True, slots=True)
class Constant:
    """The peak rate from the first step to the last."""


@dataclass(frozen=True, slots=True)
class OneCycle:
    """Up to the peak and down to nearly zero, per step (arXiv 1708.07120); names and defaults are torch's."""

    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4


@dataclass(frozen=True, slots=True)
class Cosine:
    """From the peak to zero along half a cosine, per step (arXiv 1608.03983 without restarts)."""


@dataclass(frozen=True, slots=True)
class Step:
    """Times ``gamma`` after every ``step_size`` epochs."""

    step_size: int
    gamma: float = 0.1


@dataclass(frozen=True, slots=True)
class Plateau:
    """Times ``factor`` once accuracy has not risen for more than ``patience`` epochs.

    The accuracy is the validation set's, or the training set's where there is no validation set.
    """

    factor: float = 0.1
    patience: int = 1
    min_lr: float = 1e-6


Schedule: TypeAlias = Constant | OneCycle | Cosine | Step | Plateau


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """One random affine map per image, drawn anew every time the image is seen.

    Attributes:
        rotation: largest angle either way, degrees.
        translation: largest shift either way, as fractions of (width, height).
        scale: lowest and highest factor.
        shear: largest angle of the horizontal shear either way, degrees.
        fill: pixel value, in [0, 1], of what lies outside the image.
        interpolation: how pixels between pixels are read.
    """

    rotation: float = 0.0
    translation: tuple[float, float] = (0.0, 0.0)
    scale: tuple[float, float] = (1.0, 1.0)
    shear: float = 0.0
    fill: float = 0.0
    interpolation: Literal["bilinear", "nearest"] = "bilinear"

    @property
    def is_identity(self) -> bool:
        """Whether it leaves every image as it is."""
        return (
            self.rotation == self.shear == 0.0 and self.translation == (0.0, 0.0) and self.scale == (1.0, 1.0)
        )

    @classmethod
    def of_strength(cls, strength: float) -> Augmentation:
        """One dial for search: 1 turns by 15 degrees, shifts by a tenth, scales by a tenth, shears by 10 degrees."""
        return cls(
            rotation=15.0 * strength,
            translation=(0.1 * strength, 0.1 * strength),
            scale=(1 - 0.1 * strength, 1 + 0.1 * strength),
            shear=10.0 * strength,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Everything that the training of one network needs besides the network, the data and a seed.

    Raises:
        ValueError: a value that cannot be trained with.
    """

    epochs: int
    batch_size: int
    optimizer: Optimizer
    schedule: Schedule = field(default_factory=Constant)
    label_smoothing: float = 0.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    ema_decay: float | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2:
            raise ValueError("training takes at least 1 epoch and batches of at least 2 images")
        if not self.optimizer.lr > 0 or self.optimizer.weight_decay < 0:
            raise ValueError("a learning rate is above 0 and a weight decay is not below 0")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label smoothing lies in [0, 1), not {self.label_smoothing}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"the decay of the average lies in (0, 1), not {self.ema_decay}")
