"""A recipe: one network and its training, written down with what its author claims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from search_space import Architecture, TrainingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedResult:
    """What an author says of a network.

    Attributes:
        num_params: learned parameters.
        test_accuracy: the highest accuracy claimed on the 10,000 test images, a fraction.
        wording: the claim in short, with how it was measured.
    """

    num_params: int
    test_accuracy: float
    wording: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A named network with its training.

    Attributes:
        name: what the command line calls it.
        source: the first characters of the seed text's name.
        assumed: what the author left open and we filled in.
        params: the nearest point of the search space; empty where none is near.
    """

    name: str
    source: str
    architecture: Architecture
    training: TrainingConfig
    reported: ReportedResult
    assumed: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
