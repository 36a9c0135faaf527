"""Results published by others, from ``published.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A published network with the test accuracy that its author reports, a fraction.

    ``rule`` is the evaluation protocol; no result is a mean over several random seeds.
    """

    name: str
    parameters: int
    test_accuracy: float
    epochs: int
    rule: str
    source: str


def published() -> list[Published]:
    """All published networks, smallest first."""
    rows = json.loads(files("experiments").joinpath("published.json").read_text())
    return sorted((Published(**row) for row in rows), key=lambda network: network.parameters)
