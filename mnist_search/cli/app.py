"""The command ``mnist-search``. Nothing heavy is imported until a verb needs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from mnist_search.cli import (
    bench,
    compare,
    data,
    enqueue,
    evaluate,
    export,
    leaderboard,
    report,
    search,
    show,
    space,
    ui,
)
from mnist_search.errors import MnistSearchError
from mnist_search.process_env import ExitWithoutTeardown, set_defaults

app = typer.Typer(
    name="mnist-search",
    help="Find the most accurate MNIST network that fits in N parameters.",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

SEARCH, JUDGE, TAKE, READ, MACHINE = (
    "Search", "Judge on the test set", "Take a network out", "Read the store", "Machine",
)  # fmt: skip

app.command(rich_help_panel=SEARCH)(search.run)
app.command(rich_help_panel=SEARCH)(search.resume)
app.command(rich_help_panel=SEARCH)(enqueue.enqueue)
app.command(rich_help_panel=SEARCH)(space.space)
app.command(rich_help_panel=JUDGE)(evaluate.finalize)
app.command(rich_help_panel=JUDGE)(evaluate.finals)
app.command(rich_help_panel=JUDGE)(evaluate.reproduce)
app.command(rich_help_panel=TAKE)(export.export)
app.command(rich_help_panel=TAKE)(export.verify)
app.command(rich_help_panel=TAKE)(export.predict)
app.command(rich_help_panel=READ)(show.status)
app.command(rich_help_panel=READ)(show.studies)
app.command(rich_help_panel=READ)(show.trials)
app.command(rich_help_panel=READ)(show.best)
app.command(rich_help_panel=READ)(show.explain)
app.command(rich_help_panel=READ)(compare.compare)
app.command(rich_help_panel=READ)(leaderboard.leaderboard)
app.command(rich_help_panel=READ)(report.report)
app.command(rich_help_panel=MACHINE)(data.data)
app.command(rich_help_panel=MACHINE)(data.init)
app.command(rich_help_panel=MACHINE)(ui.ui)
app.command(rich_help_panel=MACHINE)(bench.bench)


def _version(wanted: bool) -> None:
    if wanted:
        from mnist_search import __version__  # metadata, only when asked

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Find the most accurate MNIST network that fits in N parameters."""


def main() -> None:
    """The process ``mnist-search``: do what its arguments say and exit."""
    ending = ExitWithoutTeardown()
    ending.code = run_cli(sys.argv[1:])
    sys.exit(ending.code)


def run_cli(arguments: Sequence[str]) -> int:
    """Run one verb; its exit code. An error is one line on stderr."""
    set_defaults()
    try:
        code = app(arguments or ["--help"], prog_name="mnist-search", standalone_mode=False)
        sys.stdout.flush()
    except (MnistSearchError, typer.TyperException) as error:
        if "--debug" in arguments:
            raise
        message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        typer.echo(f"mnist-search: {' '.join(message.split())}", err=True)
        code = error.exit_code
    except typer.Abort:
        code = 130
    except BrokenPipeError:  # the reader of our output has gone, such as head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    return code if isinstance(code, int) else 0
