"""One measured figure, as it is printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Row:
    """A figure with its spread.

    Attributes:
        name: stable, so that two machines and two versions can be compared.
        value: the median of the rounds.
        note: what was measured against what.
    """

    name: str
    value: float
    unit: str
    min: float
    median: float
    max: float
    note: str


def row(name: str, unit: str, rounds: Sequence[float], note: str = "") -> Row:
    """The figure of some rounds of one measurement."""
    middle = median(rounds)
    return Row(name, middle, unit, min(rounds), middle, max(rounds), note)


def ratio(name: str, ours: Sequence[float], theirs: Sequence[float], note: str = "") -> Row:
    """How many times more ``ours`` is, round by round."""
    return row(name, "x", [mine / other for mine, other in zip(ours, theirs, strict=True)], note)
