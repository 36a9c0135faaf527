"""A recipe: an architecture, its training configuration and the result that its author reported."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from search_space import Architecture, TrainingConfig


def block_params(*widths: int, **others: Any) -> dict[str, Any]:
    """Params of the search space: depth and widths of the blocks, and others."""
    return {"depth": len(widths)} | {f"width_{i}": width for i, width in enumerate(widths, 1)} | others


def baseline_params(*widths: int, **others: Any) -> dict[str, Any]:
    """Params of the search space: blocks of these widths, the common params of the baselines, and others."""
    architecture = {"pool_1": 2, "pool_2": 0, "padding": "valid", "transition": True, "head": "gap"}
    training = {"optimizer": "sgd", "schedule": "constant", "augmentation": 0.0, "batch_size": 128}
    return block_params(*widths, **architecture, **training) | others


@dataclass(frozen=True, slots=True)
class ReportedResult:
    """A result as reported by its author: the highest accuracy on the 10,000 test images, a fraction."""

    num_params: int
    test_accuracy: float
    wording: str  # the result in short, with its evaluation protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A named architecture with its training configuration."""

    name: str
    architecture: Architecture
    training: TrainingConfig
    reported: ReportedResult
    params: Mapping[str, Any] = field(default_factory=dict)  # nearest point of the search space, if any
