"""Training configuration: optimizer, schedule, augmentation and weight averaging, as frozen dataclasses."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, Self, TypeAlias


@dataclass(frozen=True, slots=True)
class SGD:
    """Stochastic gradient descent; ``lr`` is the peak of the schedule, ``weight_decay`` an L2 penalty."""

    lr: float
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0


@dataclass(frozen=True, slots=True)
class Adam:
    """Adam; ``decoupled`` weight decay is AdamW (arXiv 1711.05101)."""

    lr: float
    weight_decay: float = 0.0
    decoupled: bool = False


Optimizer: TypeAlias = SGD | Adam


@dataclass(frozen=True, slots=True)
class Constant:
    """The peak rate at every step."""


@dataclass(frozen=True, slots=True)
class OneCycle:
    """Warm-up to the peak and annealing to nearly zero, per step (arXiv 1708.07120), with torch's defaults.

    ``cycle_momentum`` varies the momentum (Adam: beta 1) between 0.95 at the ends and 0.85 at the peak.
    """

    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    cycle_momentum: bool = True


@dataclass(frozen=True, slots=True)
class Cosine:
    """Cosine annealing from the peak to zero, per step (arXiv 1608.03983 without restarts)."""


@dataclass(frozen=True, slots=True)
class Step:
    """Multiplies the rate by ``gamma`` every ``step_size`` epochs."""

    step_size: int
    gamma: float = 0.1


@dataclass(frozen=True, slots=True)
class Plateau:
    """Multiplies the rate by ``factor`` after more than ``patience`` epochs without a better accuracy.

    The accuracy is that on the validation set, or on the training set if there is none.
    """

    factor: float = 0.1
    patience: int = 1
    min_lr: float = 1e-6


Schedule: TypeAlias = Constant | OneCycle | Cosine | Step | Plateau


def optimizer_name(optimizer: Optimizer) -> str:
    """The choice of the search space: ``sgd`` or ``adamw``; ``adam`` has no decoupled weight decay."""
    if isinstance(optimizer, SGD):
        return "sgd"
    return "adamw" if optimizer.decoupled else "adam"


def schedule_name(schedule: Schedule) -> str:
    """The choice of the search space, such as ``one_cycle``."""
    return "one_cycle" if isinstance(schedule, OneCycle) else type(schedule).__name__.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """A random affine map per image and epoch."""

    rotation: float = 0.0  # maximum absolute angle, degrees
    translation: tuple[float, float] = (0.0, 0.0)  # maximum absolute shift, as fractions of (width, height)
    scale: tuple[float, float] = (1.0, 1.0)  # minimum and maximum factor
    shear: float = 0.0  # maximum absolute angle of the horizontal shear, degrees
    fill: float = 0.0  # pixel value, in [0, 1], outside the image
    interpolation: Literal["bilinear", "nearest"] = "bilinear"

    @property
    def is_identity(self) -> bool:
        """Whether it changes no image."""
        return (self.rotation, self.translation, self.scale, self.shear) == (0, (0, 0), (1, 1), 0)

    @classmethod
    def of_strength(cls, strength: float) -> Self:
        """A single strength to search over; 1 is 15 degrees rotation, 10 % shift and scale, 10 degrees shear."""
        shift = 0.1 * strength
        scale = 1 - shift, 1 + shift
        return cls(rotation=15.0 * strength, translation=(shift, shift), scale=scale, shear=10.0 * strength)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Hyperparameters of one training run.

    After each epoch of ``restarts`` the schedule starts again (warm restarts, arXiv 1608.03983), so that
    every part of the training run is a complete schedule.

    Raises:
        ValueError: a value is out of range.
    """

    epochs: int
    batch_size: int
    optimizer: Optimizer
    schedule: Schedule = field(default_factory=Constant)
    label_smoothing: float = 0.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    ema_decay: float | None = None
    restarts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2:
            raise ValueError("training takes at least 1 epoch and batches of at least 2 images")
        if not self.optimizer.lr > 0 or self.optimizer.weight_decay < 0:
            raise ValueError("a learning rate must be above 0 and a weight decay not below 0")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label smoothing must be in [0, 1), not {self.label_smoothing}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in (0, 1), not {self.ema_decay}")
        if not all(0 < first < second for first, second in pairwise((*self.restarts, self.epochs))):
            raise ValueError(f"restarts must be ascending epochs before the last, not {self.restarts}")

    @property
    def parts(self) -> tuple[int, ...]:
        """Epochs of every complete schedule."""
        return tuple(end - start for start, end in pairwise((0, *self.restarts, self.epochs)))
