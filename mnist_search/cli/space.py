"""The verb ``space``: what a budget leaves to search, without training anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mnist_search.cli.options import Format, FormatOption, bounds
from mnist_search.cli.output import print_fields
from mnist_search.errors import UsageError

if TYPE_CHECKING:
    from search_space import SearchSpace

BudgetOption = Annotated[int, typer.Option("--budget", "-b", min=1, help="Most parameters of a network.")]
DepthOption = Annotated[
    str | None, typer.Option("--depth", help="Fewest and most blocks, LOW:HIGH.", show_default="3:7")
]
WidthOption = Annotated[
    str | None,
    typer.Option("--width", help="Fewest and most channels, LOW:HIGH.", show_default="by budget"),
]


def space_of(budget: int, depth: str | None, width: str | None, epochs: int = 15) -> SearchSpace:
    """The space of these options.

    Raises:
        UsageError: bounds that hold nothing, or nothing within the budget.
    """
    from search_space import ParameterBudget, SearchSpace  # Optuna's distributions

    asked = {"depth": bounds(depth, "--depth"), "width": bounds(width, "--width")}
    try:
        made = SearchSpace.for_budget(
            budget, epochs=epochs, **{name: pair for name, pair in asked.items() if pair}
        )
        smallest = ParameterBudget(made, budget).smallest
    except ValueError as error:
        raise UsageError(f"{error}; see mnist-search run --help") from error
    if smallest > budget:
        lower = " and ".join(
            f"--{name} (now {low}:{high})"
            for name, (low, high), floor in (("width", made.width, 1), ("depth", made.depth, 3))
            if low > floor
        )
        compute_modes = f"raise --budget to {smallest:,}" + (f" or lower {lower}" if lower else "")
        raise UsageError(
            f"no network of this space has {budget:,} parameters or fewer: the smallest has "
            f"{smallest:,}; {compute_modes}"
        )
    return made


def space(
    budget: BudgetOption,
    depth: DepthOption = None,
    width: WidthOption = None,
    how: FormatOption = Format.TABLE,
) -> None:
    """Say how much a budget leaves to search; trains nothing."""
    from search_space import ParameterBudget  # Optuna's distributions

    made = space_of(budget, depth, width)
    limit = ParameterBudget(made, budget)
    feasible, near = limit.feasible_share()
    document = {
        "budget": budget,
        "smallest": limit.smallest,
        "largest": limit.largest,
        "architectures": made.num_architectures,
        "feasible_share": feasible,
        "near_budget_share": near,
        "depth": "{}:{}".format(*made.depth),
        "width": "{}:{}".format(*made.width),
        "params": {name: str(param) for name, param in made.distributions.items()},
    }
    if how == Format.TABLE:
        del document["params"]
        print_fields(document | {"architectures": f"{made.num_architectures:.1e}"}, how)
        print("\ngenes")
        print_fields({name: str(param) for name, param in made.distributions.items()}, how)
    else:
        print_fields(document, how)
