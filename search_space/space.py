"""What may vary: one static joint space, and one door into it.

Every gene is always suggested, also those that a shallow network does not use.
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
from search_space.training import (
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

Genes: TypeAlias = Mapping[str, Any]

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
    def width_genes(self) -> tuple[str, ...]:
        """Names of the genes that are numbers of channels."""
        return (*(f"width_{i}" for i in range(1, self.depth[1] + 1)), "transition_width")

    @cached_property
    def architecture_genes(self) -> dict[str, BaseDistribution]:
        """Genes that decide the architecture, and with it the number of parameters."""
        widths = IntDistribution(*self.width)
        return {
            "depth": IntDistribution(*self.depth),
            **dict.fromkeys(self.width_genes, widths),
            "pool_1": IntDistribution(1, 3),
            "pool_2": IntDistribution(0, 4),
            "padding": CategoricalDistribution(("same", "valid")),
            "transition": CategoricalDistribution((True, False)),
            "head": CategoricalDistribution(("gap", "gap_hidden", "flatten")),
        }

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Every gene of the joint space."""
        return self.architecture_genes | {
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

    def decode(self, genes: Genes) -> TrialConfig:
        """The configuration that a full set of genes stands for."""
        return TrialConfig(self.architecture(genes), self.training(genes))

    def architecture(self, genes: Genes) -> Architecture:
        """The network of a set of genes; genes that it does not use are ignored."""
        layers: list[Layer] = []
        size = INPUT_SHAPE[1]
        pools = {genes["pool_1"]}
        if genes["pool_2"]:
            pools.add(genes["pool_1"] + genes["pool_2"])
        for block in range(1, genes["depth"] + 1):
            padded = genes["padding"] == "same" or size < SMALLEST_VALID_MAP
            layers += self._block(genes, genes[f"width_{block}"], padding=int(padded))
            size -= 0 if padded else 2
            if block in pools and size > 1:
                layers.append(MaxPool())
                size //= 2
            if block == genes["pool_1"] and genes["transition"]:
                layers += self._block(genes, genes["transition_width"], kernel_size=1)
        return Architecture((*layers, *_head(genes["head"])))

    def _block(self, genes: Genes, width: int, kernel_size: int = 3, padding: int = 0) -> list[Layer]:
        block: list[Layer] = [Conv(width, kernel_size, padding), BatchNorm(), ReLU()]
        if genes.get("dropout"):
            block.append(Dropout(genes["dropout"], genes["dropout_per"]))
        return block

    def training(self, genes: Genes) -> TrainingConfig:
        """The training of a set of genes."""
        return TrainingConfig(
            epochs=self.epochs,
            batch_size=genes["batch_size"],
            optimizer=_optimizer(genes),
            schedule=_schedule(genes["schedule"], self.epochs),
            label_smoothing=genes["label_smoothing"],
            augmentation=Augmentation.of_strength(genes["augmentation"]),
        )

    def describe(self, genes: Genes) -> dict[str, str | int | float]:
        """What people compare: the architecture in short and the genes that the network uses."""
        config = self.decode(genes)
        plan = ("depth", "pool_1", "pool_2", "padding", "transition", "head")
        rest = ("optimizer", "weight_decay", "schedule", "batch_size", "label_smoothing")
        return {
            "architecture": str(config.architecture),
            "num_params": config.architecture.num_params(),
            "multiply_adds": config.architecture.multiply_adds(),
            **{name: genes[name] for name in plan},
            "dropout": genes["dropout"],
            "dropout_per": genes["dropout_per"] if genes["dropout"] else "none",
            "peak_lr": config.training.optimizer.lr,
            **{name: genes[name] for name in rest},
            "augmentation": genes["augmentation"],
            "epochs": config.training.epochs,
        }

    def draw(self, rng: np.random.RandomState) -> dict[str, Any]:
        """Architecture genes drawn independently and uniformly, as a random sampler would."""
        return {name: _draw(gene, rng) for name, gene in self.architecture_genes.items()}

    def extremes(self, width: int) -> Iterator[dict[str, Any]]:
        """Every plan of depth, pooling, padding, transition and head, with all widths equal."""
        plan = {n: d for n, d in self.architecture_genes.items() if n not in self.width_genes}
        widths = dict.fromkeys(self.width_genes, width)
        for values in product(*(_values(gene) for gene in plan.values())):
            yield widths | dict(zip(plan, values, strict=True))

    @property
    def num_architectures(self) -> int:
        """Distinct settings of the architecture genes that a network uses."""
        span = self.width[1] - self.width[0] + 1
        plans = prod(
            len(_values(self.architecture_genes[n])) for n in ("pool_1", "pool_2", "padding", "head")
        )
        return sum(plans * span**d * (1 + span) for d in range(self.depth[0], self.depth[1] + 1))


def _suggest(trial: SuggestsParameters, name: str, gene: BaseDistribution) -> Any:
    match gene:
        case CategoricalDistribution():
            return trial.suggest_categorical(name, gene.choices)
        case IntDistribution():
            return trial.suggest_int(name, gene.low, gene.high, step=gene.step, log=gene.log)
        case FloatDistribution():
            return trial.suggest_float(name, gene.low, gene.high, step=gene.step, log=gene.log)
    raise TypeError(f"no way to suggest {name} from {gene!r}")


def _values(gene: BaseDistribution) -> tuple[Any, ...]:
    match gene:
        case CategoricalDistribution():
            return tuple(gene.choices)
        case IntDistribution():
            return tuple(range(gene.low, gene.high + 1, gene.step))
    raise TypeError(f"{gene!r} has no list of values")


def _draw(gene: BaseDistribution, rng: np.random.RandomState) -> Any:
    values = _values(gene)
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


def _optimizer(genes: Genes) -> Optimizer:
    match genes["optimizer"]:
        case "sgd":
            return SGD(genes["sgd_lr"], nesterov=True, weight_decay=genes["weight_decay"])
        case "adamw":
            return Adam(genes["adamw_lr"], weight_decay=genes["weight_decay"], decoupled=True)
    raise ValueError(f"unknown optimizer {genes['optimizer']!r}")


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
