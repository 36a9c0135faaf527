"""The search space: one static joint space of architecture and training params.

Every param is always suggested, including those that a shallow network does not use, so that every
trial has the same distributions and a sampler can model them jointly.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from math import ceil, prod, sqrt
from typing import Any, Self, TypeAlias

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial

from search_space import architecture as arch
from search_space import ranges
from search_space import training_config as cfg

Params: TypeAlias = Mapping[str, Any]

OUTPUT = arch.Linear(arch.NUM_CLASSES)
HEADS: dict[str, tuple[arch.Layer, ...]] = {
    "gap": (arch.GlobalAvgPool(), arch.Flatten(), OUTPUT),
    "gap_hidden": (arch.GlobalAvgPool(), arch.Flatten(), arch.Linear(16), arch.ReLU(), OUTPUT),
    "flatten": (arch.Flatten(), OUTPUT),
}
MIN_UNPADDED_SIZE = 5  # smaller maps are padded: unpadded convolutions would reduce them to nothing


@dataclass(frozen=True, slots=True)
class TrialConfig:
    """The architecture and training of one set of params."""

    architecture: arch.Architecture
    training: cfg.TrainingConfig


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """Blocks of 3x3 convolution, batch norm, ReLU and dropout; one or two pooling layers; a head.

    ``params`` are ranges of params by name: only this part of the space is searched. One value fixes a param.

    Raises:
        ValueError: invalid bounds, no such param, or a range outside of the param's own.
    """

    depth: tuple[int, int] = (3, 7)  # minimum and maximum number of blocks
    width: tuple[int, int] = (4, 30)  # minimum and maximum number of channels of a block
    epochs: int = 15  # of a complete training run
    cycle_momentum: bool = False  # of one-cycle schedules; studies of version 0.1 cycle it
    params: ranges.Ranges = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not 3 <= self.depth[0] <= self.depth[1] <= 12:
            raise ValueError(f"depth takes bounds LOW:HIGH within 3:12, not {self.depth}")
        if not 1 <= self.width[0] <= self.width[1] <= 512:
            raise ValueError(f"width takes bounds LOW:HIGH within 1:512, not {self.width}")
        if not 1 <= self.epochs <= 10_000:
            raise ValueError(f"epochs must be within 1:10000, not {self.epochs}")
        given, whole = self.params, self._whole
        narrowed = ranges.narrow(whole, given)
        canonical = {name: ranges.range_of(narrowed[name]) for name in whole if narrowed[name] != whole[name]}
        object.__setattr__(self, "params", canonical)

    @classmethod
    def widest(cls) -> Self:
        """The space with the widest bounds, which has every param."""
        return cls(depth=(3, 12), width=(1, 512))

    @classmethod
    def for_budget(cls, budget: int, **bounds: Any) -> Self:
        """The space with default bounds for a budget, unless others are given; ``params`` may bound the depth.

        A 3x3 convolution from C to C channels has 9 C^2 parameters, so the maximum width is
        sqrt(budget / 9), and the minimum is a seventh of it.

        Raises:
            ValueError: invalid bounds, or no network of the space is within the budget.
        """
        widest = min(max(4, ceil(sqrt(budget / 9))), 512)
        space = cls(**{"width": (max(2, widest // 7), widest)} | without_range_of_depth(bounds))
        if space.smallest > budget:
            limits = (("width", space.width, 1), ("depth", space.depth, 3))
            lower = [f"{name} (now {low}:{high})" for name, (low, high), floor in limits if low > floor]
            lower += ["the ranges of params"] if space.params else []
            raise ValueError(
                f"no network of this space has {budget:,} parameters or fewer: the smallest has "
                f"{space.smallest:,}; raise the budget to {space.smallest:,}"
                + (f" or lower {' and '.join(lower)}" if lower else "")
            )
        return space

    @cached_property
    def width_params(self) -> tuple[str, ...]:
        """Names of the params that set a number of channels."""
        return (*(f"width_{i}" for i in range(1, self.depth[1] + 1)), "transition_width")

    @cached_property
    def architecture_params(self) -> dict[str, BaseDistribution]:
        """Distributions of the params that determine the architecture, and so the parameter count."""
        narrowed = self.distributions
        return {name: narrowed[name] for name in self._whole_architecture}

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Distributions of all params."""
        return ranges.narrow(self._whole, self.params)

    @cached_property
    def _whole_architecture(self) -> dict[str, BaseDistribution]:
        return {
            "depth": IntDistribution(*self.depth),
            **dict.fromkeys(self.width_params, IntDistribution(*self.width)),
            "pool_1": IntDistribution(1, 3),
            "pool_2": IntDistribution(0, 4),
            "padding": CategoricalDistribution(("same", "valid")),
            "transition": CategoricalDistribution((True, False)),
            "head": CategoricalDistribution(tuple(HEADS)),
        }

    @cached_property
    def _whole(self) -> dict[str, BaseDistribution]:
        """Distributions of all params, not narrowed."""
        return {
            **self._whole_architecture,
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

    def suggest(self, trial: BaseTrial) -> TrialConfig:
        """Suggest every param from a ``Trial``, ``FixedTrial`` or ``FrozenTrial`` and build the configuration."""
        return self.decode({n: _suggest(trial, n, d) for n, d in self.distributions.items()})

    def decode(self, params: Params) -> TrialConfig:
        """Build the configuration of a full set of params."""
        return TrialConfig(self.architecture(params), self.training(params))

    def architecture(self, params: Params) -> arch.Architecture:
        """Build the architecture; params that it does not use are ignored."""
        layers: list[arch.Layer] = []
        size = arch.INPUT_SHAPE[1]
        pools = {params["pool_1"], params["pool_1"] + params["pool_2"]}
        for block in range(1, params["depth"] + 1):
            padded = params["padding"] == "same" or size < MIN_UNPADDED_SIZE
            layers += self._block(params, params[f"width_{block}"], padding=int(padded))
            size -= 0 if padded else 2
            if block in pools and size > 1:
                layers.append(arch.MaxPool())
                size //= 2
            if block == params["pool_1"] and params["transition"]:
                layers += self._block(params, params["transition_width"], kernel_size=1)
        return arch.Architecture((*layers, *HEADS[params["head"]]))

    def _block(self, params: Params, width: int, kernel_size: int = 3, padding: int = 0) -> list[arch.Layer]:
        block: list[arch.Layer] = [arch.Conv(width, kernel_size, padding), arch.BatchNorm(), arch.ReLU()]
        if params.get("dropout"):
            block.append(arch.Dropout(params["dropout"], params["dropout_per"]))
        return block

    def training(self, params: Params) -> cfg.TrainingConfig:
        """Build the training configuration."""
        schedules: dict[str, cfg.Schedule] = {
            "one_cycle": cfg.OneCycle(cycle_momentum=self.cycle_momentum),
            "cosine": cfg.Cosine(),
            "step": cfg.Step(step_size=max(1, round(0.4 * self.epochs))),
            "plateau": cfg.Plateau(),
            "constant": cfg.Constant(),
        }
        return cfg.TrainingConfig(
            epochs=self.epochs,
            batch_size=params["batch_size"],
            optimizer=_optimizer(params),
            schedule=schedules[params["schedule"]],
            label_smoothing=params["label_smoothing"],
            augmentation=cfg.Augmentation.of_strength(params["augmentation"]),
        )

    def describe(self, params: Params) -> dict[str, str | int | float]:
        """The architecture in short notation, its costs and the params that it uses, for display."""
        config = self.decode(params)
        architecture = ("depth", "pool_1", "pool_2", "padding", "transition", "head", "dropout")
        training = ("optimizer", "weight_decay", "schedule", "batch_size", "label_smoothing", "augmentation")
        return {
            "architecture": str(config.architecture),
            "num_params": config.architecture.num_params(),
            "multiply_adds": config.architecture.multiply_adds(),
            **{name: params[name] for name in architecture},
            "dropout_per": params["dropout_per"] if params["dropout"] else "none",
            "peak_lr": config.training.optimizer.lr,
            **{name: params[name] for name in training},
            "epochs": self.epochs,
        }

    @cached_property
    def _choices(self) -> dict[str, Sequence[Any]]:
        """Values of the architecture params."""
        return {
            name: range(param.low, param.high + 1) if isinstance(param, IntDistribution) else param.choices
            for name, param in self.architecture_params.items()
            if isinstance(param, IntDistribution | CategoricalDistribution)
        }

    def draw(self, rng: np.random.RandomState) -> dict[str, Any]:
        """Draw the architecture params independently and uniformly."""
        return {name: values[rng.randint(len(values))] for name, values in self._choices.items()}

    def _with_widths(self, position: int) -> Iterator[dict[str, Any]]:
        """Every combination of the other architecture params, with all widths at their first (0) or last (-1) value."""
        choices = self._choices | {name: (self._choices[name][position],) for name in self.width_params}
        return (dict(zip(choices, values, strict=True)) for values in product(*choices.values()))

    def _count(self, params: Params) -> int:
        return self.architecture(params).num_params()

    @cached_property
    def cheapest(self) -> dict[str, Any]:
        """The architecture params of the smallest network of the space."""
        return min(self._with_widths(0), key=self._count)

    @cached_property
    def smallest(self) -> int:
        """Parameter count of the smallest network of the space."""
        return self._count(self.cheapest)

    @cached_property
    def largest(self) -> int:
        """Parameter count of the largest network of the space."""
        return max(map(self._count, self._with_widths(-1)))

    @property
    def num_architectures(self) -> int:
        """Number of settings of the architecture params, not counting unused ones."""
        sizes = {name: len(values) for name, values in self._choices.items()}
        discrete = prod(sizes[name] for name in ("pool_1", "pool_2", "padding", "head"))
        transitions = sum(sizes["transition_width"] if used else 1 for used in self._choices["transition"])
        widths = [prod(sizes[f"width_{i}"] for i in range(1, depth + 1)) for depth in self._choices["depth"]]
        return discrete * transitions * sum(widths)

    @property
    def is_finite(self) -> bool:
        """Whether the number of configurations is finite: no param that is used has a continuous range."""
        rates = {"sgd": "sgd_lr", "adamw": "adamw_lr"}
        optimizers = ranges.range_of(self.distributions["optimizer"])
        unused = {rate for optimizer, rate in rates.items() if optimizer not in optimizers}
        return all(
            not isinstance(param, FloatDistribution)
            or param.step is not None
            or param.single()
            or name in unused
            for name, param in self.distributions.items()
        )


def without_range_of_depth(bounds: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a SearchSpace; a range of the depth among its ``params`` becomes its ``depth``.

    The depth decides which widths the space has.

    Raises:
        ValueError: not a range of the depth, or another than the given ``depth``.
    """
    params = dict(bounds.get("params", {}))
    if "depth" not in params:
        return dict(bounds)
    widest = {"depth": SearchSpace.widest().distributions["depth"]}
    pair = ranges.range_of(ranges.narrow(widest, {"depth": params.pop("depth")})["depth"])
    if bounds.get("depth", pair) != pair:
        raise ValueError(f"depth takes one range, not {bounds['depth']} and {pair}")
    return {**bounds, "depth": pair, "params": params}


def _suggest(trial: BaseTrial, name: str, param: BaseDistribution) -> Any:
    match param:
        case CategoricalDistribution():
            return trial.suggest_categorical(name, param.choices)
        case IntDistribution():
            return trial.suggest_int(name, param.low, param.high)
        case FloatDistribution():
            return trial.suggest_float(name, param.low, param.high, step=param.step, log=param.log)


def _optimizer(params: Params) -> cfg.Optimizer:
    if params["optimizer"] == "sgd":
        return cfg.SGD(params["sgd_lr"], nesterov=True, weight_decay=params["weight_decay"])
    return cfg.Adam(params["adamw_lr"], weight_decay=params["weight_decay"], decoupled=True)
