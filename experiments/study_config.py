"""StudyConfig: everything that two runs of one study must agree on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

from search_space import ParameterBudget, SearchSpace

FORMAT = 2
"""Incremented if older versions could misread a study; version 0.1 reads format 1."""


class Difference(NamedTuple):
    """One field in which two configurations differ."""

    name: str
    stored: Any
    requested: Any


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Configuration of a budgeted search.

    Attributes:
        budget: maximum number of learned parameters.
        space: search space, including the epochs of a complete training run.
        fill: whether to scale the widths of every proposal to the budget.
        sampler: name of the Optuna sampler.
        pruner: name of the Optuna pruner.
        seed: of proposals, weights, batches and augmentation.
        train_images, val_images: sizes of the split of the 60,000 training images.
        split_seed: of the split.
        metric: maximized metric.
    """

    budget: int
    space: SearchSpace
    fill: bool = True
    sampler: str = "tpe"
    pruner: str = "asha"
    seed: int = 0
    train_images: int = 50_000
    val_images: int = 10_000
    split_seed: int = 0
    metric: str = field(default="val_accuracy", init=False)

    def __post_init__(self) -> None:
        ParameterBudget(self.space, self.budget)  # checks the range
        if not (self.train_images >= 1000 and self.val_images >= 100):
            raise ValueError("a split takes at least 1,000 training and 100 validation images")
        if self.train_images + self.val_images > 60_000:
            raise ValueError("a split has at most 60,000 training images in total")

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
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> StudyConfig:
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
            space = SearchSpace(depth=tuple(bounds.pop("depth")), width=tuple(bounds.pop("width")), **bounds)
            return cls(space=space, **stored)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a study configuration: {error}") from error

    def differences(self, requested: StudyConfig) -> list[Difference]:
        """Fields in which ``requested`` differs from this, the stored configuration."""
        return [
            Difference(name, stored, other)
            for (name, stored), (_, other) in zip(_fields(self), _fields(requested), strict=True)
            if stored != other
        ]


def _fields(config: StudyConfig) -> list[tuple[str, Any]]:
    space = [(f.name, getattr(config.space, f.name)) for f in fields(SearchSpace)]
    rest = [(f.name, getattr(config, f.name)) for f in fields(StudyConfig)]
    return [*space, *((name, value) for name, value in rest if name != "space")]
