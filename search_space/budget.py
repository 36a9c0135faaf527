"""The parameter budget, checked with closed forms."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from search_space.ranges import range_of
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
        feasible = self._cheapest_feasible(params)
        bounds = {n: range_of(self.space.distributions[n]) for n in self.space.width_params}
        widths = {name: params[name] for name in bounds}
        smallest = min(low / widths[name] for name, (low, _) in bounds.items())
        largest = max(high / widths[name] for name, (_, high) in bounds.items())
        best = feasible | {name: low for name, (low, _) in bounds.items()}
        for _ in range(16):  # halves a range of at most 512^2 to less than one channel
            factor = (smallest * largest) ** 0.5
            scaled = {n: min(max(round(w * factor), bounds[n][0]), bounds[n][1]) for n, w in widths.items()}
            if self.fits(feasible | scaled):
                best, smallest = feasible | scaled, factor
            else:
                largest = factor
        return best

    def _cheapest_feasible(self, params: Params) -> dict[str, Any]:
        """The params, changed as little as needed for the network to fit at minimum widths."""
        feasible, space = dict(params), self.space
        ranges = {name: range_of(param) for name, param in space.architecture_params.items()}
        narrowest = {name: ranges[name][0] for name in space.width_params}
        cheaper: list[dict[str, Any]] = [
            *({"depth": depth} for depth in range(feasible["depth"], ranges["depth"][0] - 1, -1)),
            *({"head": head} for head in ("gap",) if head in ranges["head"]),
            *({"transition": value} for value in (False,) if value in ranges["transition"]),
            space.cheapest,
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
