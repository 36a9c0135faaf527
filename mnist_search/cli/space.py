"""The verb ``space``: the search space of a budget, without any training."""

from __future__ import annotations

from typing import Annotated

import typer

from mnist_search.cli.options import Format, FormatOption, parse_bounds
from mnist_search.cli.output import print_fields
from mnist_search.errors import UsageError

DepthOption = Annotated[
    str | None,
    typer.Option("--depth", help="Minimum and maximum number of blocks, LOW:HIGH.", show_default="3:7"),
]
WidthOption = Annotated[
    str | None,
    typer.Option(
        "--width", help="Minimum and maximum number of channels, LOW:HIGH.", show_default="by budget"
    ),
]


def space(
    budget: Annotated[int, typer.Option("--budget", "-b", min=1, help="Maximum number of parameters.")],
    depth: DepthOption = None,
    width: WidthOption = None,
    output_format: FormatOption = Format.TABLE,
) -> None:
    """Print the size of a search space, and the share of it within the budget."""
    from search_space import ParameterBudget, SearchSpace

    bounds = {"depth": parse_bounds(depth, "--depth"), "width": parse_bounds(width, "--width")}
    try:
        search_space = SearchSpace.for_budget(budget, **{name: pair for name, pair in bounds.items() if pair})
        feasible, near = ParameterBudget(search_space, budget).feasible_share()
    except ValueError as error:
        raise UsageError(f"{error}; see mnist-search space --help") from error
    document = {
        "budget": budget,
        "smallest": search_space.smallest,
        "largest": search_space.largest,
        "architectures": search_space.num_architectures,
        "feasible_share": feasible,
        "near_budget_share": near,
        "depth": "{}:{}".format(*search_space.depth),
        "width": "{}:{}".format(*search_space.width),
    }
    params = {name: str(distribution) for name, distribution in search_space.distributions.items()}
    if output_format == Format.TABLE:
        architectures = f"{search_space.num_architectures:.1e}"
        print_fields(document | {"architectures": architectures}, output_format)
        print("\nparams")
        print_fields(params, output_format)
    else:
        print_fields(document | {"params": params}, output_format)
