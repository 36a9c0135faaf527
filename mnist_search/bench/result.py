"""One result of the benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Result:
    """A measured quantity: the median of its rounds and their range.

    Attributes:
        name: stable across machines and versions, so that results can be compared.
        note: the conditions of the measurement.
    """

    name: str
    median: float
    unit: str
    min: float
    max: float
    note: str


def result(name: str, unit: str, rounds: Sequence[float], note: str = "") -> Result:
    """The result of some rounds of one measurement."""
    return Result(name, median(rounds), unit, min(rounds), max(rounds), note)


def ratio_result(
    name: str, numerators: Sequence[float], denominators: Sequence[float], note: str = ""
) -> Result:
    """The ratio of two measurements, computed in each round."""
    return result(name, "x", [a / b for a, b in zip(numerators, denominators, strict=True)], note)
