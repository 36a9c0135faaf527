"""A fixed network to be trained on all 60,000 images, and what that came to, as plain values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from search_space import Architecture, TrainingConfig
from search_space.plain import from_plain, to_plain

Judged: TypeAlias = Literal["once", "every epoch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One training on all 60,000 images, and a look at the test set.

    Attributes:
        name: of what is trained, such as ``trial 33`` or ``seed-001``.
        seed: decides weights, batches and augmentation.
        judged: on the test set once, when it has ended, or after every epoch, as authors do.
    """

    name: str
    seed: int
    architecture: Architecture
    training: TrainingConfig
    judged: Judged = "once"

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(
            {
                "architecture": to_plain(self.architecture),
                "training": to_plain(self.training),
                "judged": self.judged,
            }
        )

    @classmethod
    def from_json(cls, name: str, seed: int, text: str) -> Task:
        """The task that ``to_json`` wrote."""
        plain = json.loads(text)
        return cls(
            name=name,
            seed=seed,
            architecture=from_plain(plain["architecture"]),
            training=from_plain(plain["training"]),
            judged=plain["judged"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a training came to. Accuracies are fractions, losses mean cross-entropies.

    Attributes:
        test_accuracy, test_loss: after the last epoch; None for a failed training.
        curve: a record per epoch; with ``test_accuracy`` where every epoch was judged.
        failure: why there is no result.
    """

    test_accuracy: float | None = None
    test_loss: float | None = None
    seconds: float = 0.0
    device: str = ""
    version: str = ""
    curve: Sequence[dict[str, Any]] = ()
    failure: str | None = None

    @property
    def best_epoch_accuracy(self) -> float | None:
        """The highest test accuracy of any epoch: what authors report, and nobody may select by."""
        return max((epoch["test_accuracy"] for epoch in self.curve if "test_accuracy" in epoch), default=None)
