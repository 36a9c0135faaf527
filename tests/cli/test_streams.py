"""Standard streams that are closed, full or broken, and errors of any kind: one line and an exit code."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import typer
from support import ROOT

from mnist_search.cli import app, streams
from mnist_search.storage.database import Store


@pytest.fixture
def shell(tmp_path):
    """Run a shell command in which ``$M`` is mnist-search: exit code and stderr."""
    Store.open_or_create(f"sqlite:///{tmp_path}/mnist-search.db").close()

    def call(text, **environment):
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", text],
            cwd=tmp_path,
            env=os.environ | {"M": f"{sys.executable} -m mnist_search"} | environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            timeout=110,
            check=False,
        )
        return done.returncode, done.stderr

    return call


@pytest.mark.parametrize("arguments", ["studies", "studies -f csv", "leaderboard", "--help"])
def test_closed_stdout_is_no_error(shell, arguments):
    assert shell(f"$M {arguments} >&-") == (0, "")


@pytest.mark.parametrize("arguments", ["studies", "studies -f csv", "studies -f json", "leaderboard"])
def test_full_stdout_is_a_disk_error_of_one_line(shell, arguments):
    code, err = shell(f"$M {arguments} >/dev/full")

    assert (code, err.count("\n")) == (74, 1)
    assert "No space left on device" in err


@pytest.mark.parametrize(
    "arguments", ["compare", "compare -f csv", "compare -f json", "leaderboard", "run --help"]
)
def test_reader_that_exits_is_no_error(shell, arguments):
    assert shell(f"$M {arguments} | true") == (0, "")


@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full"])
def test_stderr_that_cannot_be_written_keeps_the_exit_code(shell, stderr):
    assert shell(f"$M status nothing {stderr}")[0] == 66
    assert shell(f"$M studies {stderr}")[0] == 0


def test_file_that_is_opened_does_not_take_the_number_of_a_closed_stream(shell, tmp_path):
    program = (
        "from mnist_search.cli.streams import prepare_streams\n"
        "prepare_streams()\n"
        "file = open('notes', 'w')\n"
        "print('result', flush=True)\n"
    )
    (tmp_path / "program.py").write_text(program)

    code, _ = shell(f"{sys.executable} program.py >&-", PYTHONPATH=str(ROOT))

    assert code == 0
    assert (tmp_path / "notes").read_text() == ""


def test_name_that_the_encoding_lacks_is_escaped(shell, tmp_path):
    (tmp_path / "notes✓.md").write_text("no markers")

    code, err = shell("$M leaderboard notes✓.md", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")

    assert (code, err.count("\n")) == (2, 1)
    assert "has no leaderboard to replace" in err


@pytest.mark.parametrize("arguments", ["studies", "compare -f csv", "space --budget 8000"])
def test_warnings_of_libraries_are_no_errors(shell, arguments):
    assert shell(f"$M {arguments}", PYTHONWARNINGS="error") == (0, "")
    assert shell(f"{sys.executable} -W error -m mnist_search {arguments}") == (0, "")


def failing(error):
    """An application whose only verb raises an error."""
    application = typer.Typer(pretty_exceptions_enable=False)

    @application.callback()
    def options(*, debug: bool = False):
        """Take the global option."""

    @application.command()
    def verb():
        raise error

    return application


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyError("split"), 1),
        (RuntimeError("several\nlines"), 1),
        (RecursionError(), 1),
        (AssertionError("[/bold] [red]"), 1),
        (BrokenPipeError(32, "Broken pipe"), 1),  # of a worker, not of stdout
        (OSError(28, "No space left on device", "store.db"), 74),
        (OSError(30, "Read-only file system", "store.db"), 74),
    ],
)
def test_any_error_is_one_line_and_an_exit_code(capfd, error, code):
    streams.original_stdout.cache_clear()

    assert app.run_cli(["verb"], failing(error)) == code

    err = capfd.readouterr().err
    assert (err.startswith("mnist-search: "), err.count("\n")) == (True, 1)
    assert type(error).__name__ in err or str(error) in err


def test_debug_shows_the_traceback_without_the_password(capsys):
    error = RuntimeError("cannot reach postgresql://user:secret@host/database")

    assert app.run_cli(["--debug", "verb"], failing(error)) == 1

    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "raise error" in err
    assert "user:***@host" in err
    assert "secret" not in err
