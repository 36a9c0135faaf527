"""The command ``mnist-search``. Verbs import their implementation lazily."""

from __future__ import annotations

import errno
import shlex
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

import mnist_search
from mnist_search.cli import delete, doctor, evaluate, export, search, setup, show, status, stores
from mnist_search.cli.options import expand_groups, option
from mnist_search.cli.streams import discard_unwritable_output, is_end_of_reader, prepare_streams
from mnist_search.errors import DiskError, MnistSearchError, TryAgain, first_line, masked
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
        *(status.status, show.studies, show.trials, show.best, show.explain),
        *(show.compare, show.leaderboard, show.report),
    ),
    "Setup": (
        setup.data,
        setup.init,
        setup.ui,
        setup.bench,
        doctor.doctor,
        stores.copy,
        stores.backup,
        delete.delete,
    ),
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
    prepare_streams()
    ending = ExitWithoutTeardown()
    ending.code = run_cli(sys.argv[1:])
    sys.exit(ending.code)


def run_cli(argv: Sequence[str], application: typer.Typer = app) -> int:
    """Run one verb and return its exit code; an error is one line on stderr, with ``--debug`` its traceback."""
    set_defaults()
    argv = _global_options_first(argv)
    try:
        code = application(argv or ["--help"], prog_name="mnist-search", standalone_mode=False)
        sys.stdout.flush()
    except typer.Abort:
        code = 130
    except (Exception, SystemExit) as raised:
        # Typer exits with 1 at a broken pipe, whichever it is
        error = raised.__context__ if isinstance(raised, SystemExit) else raised
        if not isinstance(error, Exception):
            raise
        discard_unwritable_output()
        code = 0 if is_end_of_reader(error) else _show(error, _given_storage(argv), debug="--debug" in argv)
    return code if isinstance(code, int) else 0


GLOBAL_OPTIONS = {"--debug", "--verbose", "-v"}


def _global_options_first(argv: Sequence[str]) -> list[str]:
    """The arguments with the global options before the verb, where Typer expects them."""
    end = argv.index("--") if "--" in argv else len(argv)
    return sorted(argv[:end], key=lambda word: word not in GLOBAL_OPTIONS) + list(argv[end:])


def _show(error: Exception, storage: str | None, *, debug: bool) -> int:
    """Print an error to stderr; its exit code. ``storage`` is the store that the command line names."""
    if debug:
        typer.echo(masked("".join(traceback.format_exception(error))), err=True)
    message, code = _message(error)
    if (
        storage and "mnist-search " in message and "--storage" not in message
    ):  # the command that it names needs the option, too
        message += f" (with --storage {shlex.quote(storage)})"
    typer.echo(f"mnist-search: {' '.join(masked(message).split())}", err=True)
    return code


def _given_storage(argv: Sequence[str]) -> str | None:
    """The value of --storage on the command line."""
    pairs = dict(zip(argv, [*argv[1:], ""], strict=True))
    inline = (word.removeprefix("--storage=") for word in argv if word.startswith("--storage="))
    return pairs.get("--storage") or next(inline, None)


DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}


def _message(error: Exception) -> tuple[str, int]:
    """The line for an error, and the exit code."""
    if isinstance(error, typer.TyperException):
        return error.format_message(), error.exit_code
    if isinstance(error, MnistSearchError):
        return str(error), error.exit_code
    reason = first_line(error)
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return f"{reason}; free disk space, then run the same command again", DiskError.exit_code
    if (database := sys.modules.get("mnist_search.storage.database")) and database.is_unavailable(error):
        return (
            f"the store is locked or disconnected ({reason}); run the same command again",
            TryAgain.exit_code,
        )
    return f"{type(error).__name__}: {reason}; the option --debug shows the traceback", 1
