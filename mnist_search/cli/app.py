"""The command ``mnist-search``. Verbs import their implementation lazily."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import mnist_search
from mnist_search.cli import evaluate, export, search, setup, show
from mnist_search.cli.options import expand_groups, option
from mnist_search.errors import MnistSearchError
from mnist_search.process_env import ExitWithoutTeardown, configure_logging, set_defaults

app = typer.Typer(
    name="mnist-search",
    help="Find the most accurate MNIST network that fits in N parameters.",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

PANELS = {
    "Search": (search.run, search.resume, search.enqueue, search.space),
    "Evaluate": (evaluate.finalize, evaluate.finals, evaluate.reproduce),
    "Export": (export.export, export.verify, export.predict),
    "Inspect": (
        *(show.status, show.studies, show.trials, show.best, show.explain),
        *(show.compare, show.leaderboard, show.report),
    ),
    "Setup": (setup.data, setup.init, setup.ui, setup.bench),
}

for panel, verbs in PANELS.items():
    for verb in verbs:
        app.command(rich_help_panel=panel)(expand_groups(verb))


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(mnist_search.__version__)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, option("Show the traceback of an error.", "--debug")] = False,  # noqa: ARG001 - run_cli reads it
    verbose: Annotated[bool, option("Log worker and store activity to stderr.", "--verbose", "-v")] = False,
    version: Annotated[  # noqa: ARG001 - its callback prints it
        bool, option("Print the version and exit.", "--version", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Find the most accurate MNIST network that fits in N parameters."""
    configure_logging(verbose=verbose)


def main() -> None:
    """Entry point of the process: run the command line and exit with its code."""
    ending = ExitWithoutTeardown()
    ending.code = run_cli(sys.argv[1:])
    sys.exit(ending.code)


def run_cli(argv: Sequence[str]) -> int:
    """Run one verb and return its exit code; an error is one line on stderr."""
    set_defaults()
    try:
        code = app(argv or ["--help"], prog_name="mnist-search", standalone_mode=False)
        sys.stdout.flush()
    except (MnistSearchError, typer.TyperException) as error:
        if "--debug" in argv:
            raise
        message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        typer.echo(f"mnist-search: {' '.join(message.split())}", err=True)
        code = error.exit_code
    except typer.Abort:
        code = 130
    except BrokenPipeError:  # the reader of stdout exited, such as head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    return code if isinstance(code, int) else 0
