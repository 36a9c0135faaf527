"""The parameter budget, checked with closed forms."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from search_space.space import Params, SearchSpace

MAX_BUDGET = 1_000_000  # the search is for tiny networks


@dataclass(frozen=True)
class ParameterBudget:
    """A hard limit on the learned parameters of the networks of a space, within 1 and ``MAX_BUDGET``."""

    space: SearchSpace
    limit: int

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= MAX_BUDGET:
            raise ValueError(f"a parameter budget must be within 1 and {MAX_BUDGET:,}, not {self.limit:,}")

    def count(self, params: Params) -> int:
        """Number of learned parameters of the network."""
        return self.space.architecture(params).num_params()

    def fits(self, params: Params) -> bool:
        """Whether the network is within the budget."""
        return self.count(params) <= self.limit

    def scale_to_budget(self, params: Params) -> dict[str, Any]:
        """The params with all widths scaled by the largest factor that fits the budget.

        Widths keep their proportions up to rounding and the bounds of the space. If the network does
        not fit with all widths at their minimum, its depth is reduced, then its head and its
        transition layer are replaced by cheaper choices.

        Raises:
            ValueError: no network of the space is within the budget.
        """
        low, high = self.space.width
        feasible = self._cheapest_feasible(params)
        widths = {name: params[name] for name in self.space.width_params}
        smallest, largest = low / max(widths.values()), high / min(widths.values())
        best = feasible | dict.fromkeys(widths, low)
        for _ in range(16):  # halves a range of at most 512^2 to less than one channel
            factor = (smallest * largest) ** 0.5
            scaled = {n: min(max(round(w * factor), low), high) for n, w in widths.items()}
            if self.fits(feasible | scaled):
                best, smallest = feasible | scaled, factor
            else:
                largest = factor
        return best

    def _cheapest_feasible(self, params: Params) -> dict[str, Any]:
        """The params, changed as little as needed for the network to fit at minimum widths."""
        feasible = dict(params)
        narrowest = dict.fromkeys(self.space.width_params, self.space.width[0])
        cheaper: list[dict[str, Any]] = [
            *({"depth": depth} for depth in range(feasible["depth"], self.space.depth[0] - 1, -1)),
            {"head": "gap"},
            {"transition": False},
        ]
        for change in cheaper:
            feasible |= change
            if self.fits(feasible | narrowest):
                return feasible
        raise ValueError(f"no network of this space has {self.limit:,} parameters or fewer")

    def feasible_share(self, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
        """Share of random architectures within the budget, and share above 90 % of it."""
        rng = np.random.RandomState(seed)
        counts = np.array([self.count(self.space.draw(rng)) for _ in range(draws)])
        fits = counts <= self.limit
        return float(fits.mean()), float((fits & (counts > 0.9 * self.limit)).mean())
