"""What may vary: one static joint space, and one door into it.

Every param is always suggested, also those that a shallow network does not use.
So a sampler sees the same set of distributions in every trial and can model them jointly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import ceil, prod, sqrt
from typing import Any, Protocol, TypeAlias

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from search_space.architecture import (
    INPUT_SHAPE,
    NUM_CLASSES,
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
from search_space.training_config import (
    SGD,
    Adam,
    Augmentation,
    Constant,
    Cosine,
    OneCycle,
    Optimizer,
    Plateau,
    Schedule,
    Step,
    TrainingConfig,
)

Params: TypeAlias = Mapping[str, Any]

HIDDEN_HEAD_WIDTH = 16
SMALLEST_VALID_MAP = 5
"""Maps below this size are convolved with padding, or they would vanish."""


class SuggestsParameters(Protocol):
    """What a live ``Trial``, a ``FixedTrial`` and a stored ``FrozenTrial`` have in common."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """One of ``choices``."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number from ``low`` to ``high``."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """A whole number from ``low`` to ``high``."""


@dataclass(frozen=True, slots=True)
class TrialConfig:
    """One point of the space, decoded."""

    architecture: Architecture
    training: TrainingConfig


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """Blocks of 3x3 convolution, batch norm, ReLU and dropout; one or two poolings; a head.

    Attributes:
        depth: fewest and most blocks.
        width: fewest and most channels of a block.
        epochs: epochs of a full training.

    Raises:
        ValueError: bounds that hold nothing.
    """

    depth: tuple[int, int] = (3, 7)
    width: tuple[int, int] = (4, 30)
    epochs: int = 15

    def __post_init__(self) -> None:
        if not 3 <= self.depth[0] <= self.depth[1] <= 12:
            raise ValueError(f"depth takes bounds LOW:HIGH within 3:12, not {self.depth}")
        if not 1 <= self.width[0] <= self.width[1] <= 512:
            raise ValueError(f"width takes bounds LOW:HIGH within 1:512, not {self.width}")
        if not 1 <= self.epochs <= 10_000:
            raise ValueError(f"epochs lie within 1:10000, not {self.epochs}")

    @classmethod
    def for_budget(cls, budget: int, **bounds: Any) -> SearchSpace:
        """Default bounds for a budget.

        One 3x3 convolution from C to C channels costs 9 C^2 parameters, so no two neighbours are
        wider than sqrt(budget / 9); a seventh of that is the narrowest.
        """
        widest = min(max(4, ceil(sqrt(budget / 9))), 512)
        return cls(**{"width": (max(2, widest // 7), widest)} | bounds)

    @cached_property
    def width_params(self) -> tuple[str, ...]:
        """Names of the params that are numbers of channels."""
        return (*(f"width_{i}" for i in range(1, self.depth[1] + 1)), "transition_width")

    @cached_property
    def architecture_params(self) -> dict[str, BaseDistribution]:
        """Params that decide the architecture, and with it the number of parameters."""
        widths = IntDistribution(*self.width)
        return {
            "depth": IntDistribution(*self.depth),
            **dict.fromkeys(self.width_params, widths),
            "pool_1": IntDistribution(1, 3),
            "pool_2": IntDistribution(0, 4),
            "padding": CategoricalDistribution(("same", "valid")),
            "transition": CategoricalDistribution((True, False)),
            "head": CategoricalDistribution(("gap", "gap_hidden", "flatten")),
        }

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Every param of the joint space."""
        return self.architecture_params | {
            "dropout": FloatDistribution(0.0, 0.1, step=0.01),
            "dropout_per": CategoricalDistribution(("element", "channel")),
            "optimizer": CategoricalDistribution(("sgd", "adamw")),
            "sgd_lr": FloatDistribution(0.01, 0.4, log=True),
            "adamw_lr": FloatDistribution(1e-3, 5e-2, log=True),
            "weight_decay": FloatDistribution(1e-6, 1e-2, log=True),
            "schedule": CategoricalDistribution(("one_cycle", "cosine", "step", "plateau", "constant")),
            "batch_size": CategoricalDistribution((32, 64, 128)),
            "label_smoothing": FloatDistribution(0.0, 0.1, step=0.02),
            "augmentation": FloatDistribution(0.0, 1.0, step=0.1),
        }

    def suggest(self, trial: SuggestsParameters) -> TrialConfig:
        """The one door: sample a live trial, test a fixed one, decode a stored one."""
        return self.decode({n: _suggest(trial, n, d) for n, d in self.distributions.items()})

    def decode(self, params: Params) -> TrialConfig:
        """The configuration that a full set of params stands for."""
        return TrialConfig(self.architecture(params), self.training(params))

    def architecture(self, params: Params) -> Architecture:
        """The network of a set of params; params that it does not use are ignored."""
        layers: list[Layer] = []
        size = INPUT_SHAPE[1]
        pools = {params["pool_1"]}
        if params["pool_2"]:
            pools.add(params["pool_1"] + params["pool_2"])
        for block in range(1, params["depth"] + 1):
            padded = params["padding"] == "same" or size < SMALLEST_VALID_MAP
            layers += self._block(params, params[f"width_{block}"], padding=int(padded))
            size -= 0 if padded else 2
            if block in pools and size > 1:
                layers.append(MaxPool())
                size //= 2
            if block == params["pool_1"] and params["transition"]:
                layers += self._block(params, params["transition_width"], kernel_size=1)
        return Architecture((*layers, *_head(params["head"])))

    def _block(self, params: Params, width: int, kernel_size: int = 3, padding: int = 0) -> list[Layer]:
        block: list[Layer] = [Conv(width, kernel_size, padding), BatchNorm(), ReLU()]
        if params.get("dropout"):
            block.append(Dropout(params["dropout"], params["dropout_per"]))
        return block

    def training(self, params: Params) -> TrainingConfig:
        """The training of a set of params."""
        return TrainingConfig(
            epochs=self.epochs,
            batch_size=params["batch_size"],
            optimizer=_optimizer(params),
            schedule=_schedule(params["schedule"], self.epochs),
            label_smoothing=params["label_smoothing"],
            augmentation=Augmentation.of_strength(params["augmentation"]),
        )

    def describe(self, params: Params) -> dict[str, str | int | float]:
        """What people compare: the architecture in short and the params that the network uses."""
        config = self.decode(params)
        plan = ("depth", "pool_1", "pool_2", "padding", "transition", "head")
        rest = ("optimizer", "weight_decay", "schedule", "batch_size", "label_smoothing")
        return {
            "architecture": str(config.architecture),
            "num_params": config.architecture.num_params(),
            "multiply_adds": config.architecture.multiply_adds(),
            **{name: params[name] for name in plan},
            "dropout": params["dropout"],
            "dropout_per": params["dropout_per"] if params["dropout"] else "none",
            "peak_lr": config.training.optimizer.lr,
            **{name: params[name] for name in rest},
            "augmentation": params["augmentation"],
            "epochs": config.training.epochs,
        }

    def draw(self, rng: np.random.RandomState) -> dict[str, Any]:
        """Architecture params drawn independently and uniformly, as a random sampler would."""
        return {name: _draw(param, rng) for name, param in self.architecture_params.items()}

    def uniform_width_params(self, width: int) -> Iterator[dict[str, Any]]:
        """Every plan of depth, pooling, padding, transition and head, with all widths equal."""
        plan = {n: d for n, d in self.architecture_params.items() if n not in self.width_params}
        widths = dict.fromkeys(self.width_params, width)
        for values in product(*(_values(param) for param in plan.values())):
            yield widths | dict(zip(plan, values, strict=True))

    @property
    def num_architectures(self) -> int:
        """Distinct settings of the architecture params that a network uses."""
        span = self.width[1] - self.width[0] + 1
        plans = prod(
            len(_values(self.architecture_params[n])) for n in ("pool_1", "pool_2", "padding", "head")
        )
        return sum(plans * span**d * (1 + span) for d in range(self.depth[0], self.depth[1] + 1))


def _suggest(trial: SuggestsParameters, name: str, param: BaseDistribution) -> Any:
    match param:
        case CategoricalDistribution():
            return trial.suggest_categorical(name, param.choices)
        case IntDistribution():
            return trial.suggest_int(name, param.low, param.high, step=param.step, log=param.log)
        case FloatDistribution():
            return trial.suggest_float(name, param.low, param.high, step=param.step, log=param.log)
    raise TypeError(f"no way to suggest {name} from {param!r}")


def _values(param: BaseDistribution) -> tuple[Any, ...]:
    match param:
        case CategoricalDistribution():
            return tuple(param.choices)
        case IntDistribution():
            return tuple(range(param.low, param.high + 1, param.step))
    raise TypeError(f"{param!r} has no list of values")


def _draw(param: BaseDistribution, rng: np.random.RandomState) -> Any:
    values = _values(param)
    return values[rng.randint(len(values))]


def _head(kind: str) -> tuple[Layer, ...]:
    match kind:
        case "gap":
            return (GlobalAvgPool(), Flatten(), Linear(NUM_CLASSES))
        case "gap_hidden":
            hidden = (Linear(HIDDEN_HEAD_WIDTH), ReLU())
            return (GlobalAvgPool(), Flatten(), *hidden, Linear(NUM_CLASSES))
        case "flatten":
            return (Flatten(), Linear(NUM_CLASSES))
    raise ValueError(f"unknown head {kind!r}")


def _optimizer(params: Params) -> Optimizer:
    match params["optimizer"]:
        case "sgd":
            return SGD(params["sgd_lr"], nesterov=True, weight_decay=params["weight_decay"])
        case "adamw":
            return Adam(params["adamw_lr"], weight_decay=params["weight_decay"], decoupled=True)
    raise ValueError(f"unknown optimizer {params['optimizer']!r}")


def _schedule(kind: str, epochs: int) -> Schedule:
    match kind:
        case "one_cycle":
            return OneCycle()
        case "cosine":
            return Cosine()
        case "step":
            return Step(step_size=max(1, round(0.4 * epochs)))
        case "plateau":
            return Plateau()
        case "constant":
            return Constant()
    raise ValueError(f"unknown schedule {kind!r}")
