"""An experiment: everything that two runs of one study must agree on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

from search_space import ParameterBudget, SearchSpace

FORMAT = 1
"""Raised when an older reader could misread a stored definition."""


class Difference(NamedTuple):
    """One field in which two definitions differ."""

    name: str
    stored: Any
    requested: Any


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """The definition of a budgeted search; a study is its run.

    Attributes:
        budget: most learned parameters that a network may have.
        space: what may vary, the epochs of a full training included.
        fill: scale the widths of every proposal to the largest that fits.
        sampler: name of the Optuna sampler that proposes.
        pruner: name of the Optuna pruner that stops slow trials.
        seed: decides proposals, weights, batches and augmentation.
        train_images, val_images: how the 60,000 training images are split.
        split_seed: decides which image falls where.
        metric: what is maximised, on the validation images.
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
        ParameterBudget(self.space, self.budget)  # refuses an absurd one
        if not (self.train_images >= 1000 and self.val_images >= 100):
            raise ValueError("a split takes at least 1,000 images to train and 100 to validate")
        if self.train_images + self.val_images > 60_000:
            raise ValueError("a split shares out 60,000 training images and no more")

    @property
    def parameter_budget(self) -> ParameterBudget:
        """The hard limit over the space."""
        return ParameterBudget(self.space, self.budget)

    def to_json(self) -> str:
        """One line of JSON, keys sorted."""
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> StudyConfig:
        """The experiment that ``to_json`` wrote.

        Raises:
            ValueError: not a definition, or one of a newer format.
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
            raise ValueError(f"no definition of an experiment: {error}") from error

    def differences(self, requested: StudyConfig) -> list[Difference]:
        """Where ``requested`` departs from this, the stored definition."""
        return [
            Difference(name, mine, theirs)
            for (name, mine), (_, theirs) in zip(_flat(self), _flat(requested), strict=True)
            if mine != theirs
        ]


def _flat(study_config: StudyConfig) -> list[tuple[str, Any]]:
    space = [(f.name, getattr(study_config.space, f.name)) for f in fields(SearchSpace)]
    rest = [(f.name, getattr(study_config, f.name)) for f in fields(StudyConfig)]
    return [*space, *((name, value) for name, value in rest if name != "space")]
