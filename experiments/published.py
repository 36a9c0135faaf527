"""What others have published, beside which ours is to be seen; read from ``published.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A network that somebody else trained.

    Attributes:
        test_accuracy: as its author tells it, a fraction.
        rule: how it was measured; none is a mean over several seeds.
        source: where it stands.
    """

    name: str
    parameters: int
    test_accuracy: float
    epochs: int
    rule: str
    source: str


def published() -> list[Published]:
    """Every network of the list, the smallest first."""
    rows = json.loads(files("experiments").joinpath("published.json").read_text())
    return sorted((Published(**row) for row in rows), key=lambda network: network.parameters)
