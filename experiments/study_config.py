"""StudyConfig: everything that two runs of one study must agree on."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from search_space import ParameterBudget, SearchSpace, TrainingConfig
from search_space.ranges import in_words

FORMAT = 2
"""Incremented if older versions could misread a study; version 0.1 reads format 1."""

N_TRAIN_IMAGES = 60_000
"""Of MNIST, before a split."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Configuration of a budgeted search.

    ``budget`` is the maximum number of learned parameters, ``fill`` scales the widths of every proposal to
    it. ``sampler`` and ``pruner`` are names in Optuna, or the class of a sampler object. ``seed`` is that of
    proposals, weights, batches and augmentation. The 60,000 training images are split; ``metric`` is
    maximized.
    """

    budget: int
    space: SearchSpace
    fill: bool = True
    sampler: str = "tpe"
    pruner: str = "screening"
    seed: int = 0
    train_images: int = 50_000
    val_images: int = 10_000
    split_seed: int = 0
    metric: str = field(default="val_accuracy", init=False)

    @classmethod
    def for_budget(
        cls,
        budget: int,
        *,
        depth: tuple[int, int] | None = None,
        width: tuple[int, int] | None = None,
        epochs: int | None = None,
        params: Mapping[str, Any] | None = None,
        **values: Any,
    ) -> Self:
        """The configuration for a budget, with the bounds of its default space that are not given.

        ``params`` narrows or fixes params of the space, as ``{"optimizer": "sgd", "dropout": (0, 0.05)}``;
        ``values`` are other fields.

        >>> StudyConfig.for_budget(8000, epochs=5, pruner="none").space.epochs
        5
        >>> StudyConfig.for_budget(8000, params={"optimizer": "sgd"}).space.params
        {'optimizer': ('sgd',)}

        Raises:
            ValueError: a value is out of range, or no network of the space is within the budget.
        """
        bounds = {"depth": depth, "width": width, "epochs": epochs, "params": params}
        given = {name: bound for name, bound in bounds.items() if bound is not None}
        return cls(budget=budget, space=SearchSpace.for_budget(budget, **given), **values)

    def __post_init__(self) -> None:
        ParameterBudget(self.space, self.budget)  # checks the range
        if not (self.train_images >= 1000 and self.val_images >= 100):
            raise ValueError("a split takes at least 1,000 training and 100 validation images")
        if self.train_images + self.val_images > N_TRAIN_IMAGES:
            total = f"{self.train_images:,} training and {self.val_images:,} validation images"
            raise ValueError(f"{total} are more than the {N_TRAIN_IMAGES:,} of MNIST's training set")

    def training(self, config: TrainingConfig) -> TrainingConfig:
        """The training of a trial: under screening, every rung ends with a complete schedule."""
        if self.pruner != "screening":
            return config
        return replace(config, restarts=rungs(config.epochs)[:-1])

    @property
    def split(self) -> tuple[int, int, int]:
        """Training images, validation images and seed of the split."""
        return self.train_images, self.val_images, self.split_seed

    @property
    def parameter_budget(self) -> ParameterBudget:
        """The hard limit on the networks of the space."""
        return ParameterBudget(self.space, self.budget)

    def to_json(self) -> str:
        """One line of JSON with sorted keys."""
        values = {"format": FORMAT, **asdict(self)}
        if not self.space.params:  # an earlier 0.2 does not know them
            del values["space"]["params"]
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Invert ``to_json``.

        Raises:
            ValueError: not a StudyConfig, or one of a newer format.
        """
        try:
            stored = json.loads(text)
            if stored.pop("format") > FORMAT:
                raise ValueError("a newer mnist-search wrote this study")
            stored.pop("metric")
            bounds = stored.pop("space")
            bounds.setdefault("cycle_momentum", True)  # before version 0.2
            space = SearchSpace(depth=tuple(bounds.pop("depth")), width=tuple(bounds.pop("width")), **bounds)
            return cls(space=space, **stored)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a study configuration: {error}") from error

    def differences(self, requested: Self) -> dict[str, tuple[Any, Any]]:
        """Stored and requested values by name of the fields in which ``requested`` differs from this."""
        stored, other = _flat_fields(self), _flat_fields(requested)
        names = dict.fromkeys((*stored, *other))
        values = {name: (stored.get(name, "unrestricted"), other.get(name, "unrestricted")) for name in names}
        return {name: (old, new) for name, (old, new) in values.items() if old != new}


def rungs(epochs: int) -> tuple[int, ...]:
    """Epochs after which screening decides whether a trial trains on, and the last epoch.

    They are at 2/15, 1/3 and the whole of a training run, at least one epoch apart.

    >>> rungs(15)
    (2, 5, 15)
    """
    first = max(1, round(2 * epochs / 15))
    second = max(first + 1, round(epochs / 3))
    return (*(rung for rung in (first, second) if rung < epochs), epochs)


def _flat_fields(config: StudyConfig) -> dict[str, Any]:
    """Values by name, those of the space first, with a range in words per narrowed param."""
    values = asdict(config)
    space = values.pop("space")
    narrowed = {name: in_words(config.space.distributions[name]) for name in space.pop("params")}
    return {**space, **narrowed, **values}
