"""What fits: the parameter budget, decided by arithmetic alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from search_space.space import Params, SearchSpace

LARGEST_BUDGET = 1_000_000
"""More is not the business of a search for tiny networks."""


@dataclass(frozen=True)
class ParameterBudget:
    """A hard limit on learned parameters over one space.

    Raises:
        ValueError: no limit for a tiny network.
    """

    space: SearchSpace
    limit: int

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= LARGEST_BUDGET:
            raise ValueError(f"a parameter budget lies within 1 and {LARGEST_BUDGET:,}, not {self.limit:,}")

    def count(self, params: Params) -> int:
        """Learned parameters of the network of these params."""
        return self.space.architecture(params).num_params()

    def fits(self, params: Params) -> bool:
        """Whether the network of these params is within the budget."""
        return self.count(params) <= self.limit

    @cached_property
    def smallest(self) -> int:
        """Fewest parameters that any network of the space has."""
        return min(map(self.count, self.space.uniform_width_params(self.space.width[0])))

    @cached_property
    def largest(self) -> int:
        """Most parameters that any network of the space has."""
        return max(map(self.count, self.space.uniform_width_params(self.space.width[1])))

    def fill(self, params: Params) -> dict[str, Any]:
        """The same network with its widths scaled by the largest factor that fits.

        The widths are read as a shape: they keep their proportions up to rounding and to the
        bounds of the space. Where not even the narrowest fits, depth and then the dearer parts
        of the plan give way. Works on any params as long as ``smallest`` fits.

        Raises:
            ValueError: no network of the space is within the budget.
        """
        low, high = self.space.width
        plan = self._cheapest_feasible(params)
        widths = {name: params[name] for name in self.space.width_params}
        smallest, largest = low / max(widths.values()), high / min(widths.values())
        best = plan | dict.fromkeys(widths, low)
        for _ in range(16):  # halves a range of at most 512^2 to less than one channel
            factor = (smallest * largest) ** 0.5
            scaled = {n: min(max(round(w * factor), low), high) for n, w in widths.items()}
            if self.fits(plan | scaled):
                best, smallest = plan | scaled, factor
            else:
                largest = factor
        return best

    def _cheapest_feasible(self, params: Params) -> dict[str, Any]:
        """These params if their narrowest network fits, else the nearest cheaper plan that does."""
        plan = dict(params)
        narrowest = dict.fromkeys(self.space.width_params, self.space.width[0])
        cheaper: list[dict[str, Any]] = [
            *({"depth": depth} for depth in range(plan["depth"], self.space.depth[0] - 1, -1)),
            {"head": "gap"},
            {"transition": False},
        ]
        for change in cheaper:
            plan |= change
            if self.fits(plan | narrowest):
                return plan
        raise ValueError(f"no network of this space has {self.limit:,} parameters or fewer")

    def feasible_share(self, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
        """Shares of random configurations within the budget, and within its last tenth."""
        rng = np.random.RandomState(seed)
        counts = np.array([self.count(self.space.draw(rng)) for _ in range(draws)])
        fits = counts <= self.limit
        return float(fits.mean()), float((fits & (counts > 0.9 * self.limit)).mean())
