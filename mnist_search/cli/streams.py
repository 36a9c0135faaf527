"""Standard streams of a command: closed, full, and of any encoding."""

from __future__ import annotations

import io
import os
import select
import sys
from contextlib import suppress
from functools import cache


class LenientStream(io.TextIOWrapper):
    """A stream that discards what cannot be written: a lost message must not stop a search."""

    def write(self, text: str, /) -> int:
        """Write a text, if possible."""
        with suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, if possible."""
        with suppress(OSError):
            super().flush()


def prepare_streams() -> None:
    """Open closed streams, make stderr lenient, and escape characters that the encoding lacks."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # else the next file to be opened gets this number, and output goes into it
            os.open(os.devnull, os.O_RDWR)
    original_stdout()
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.stderr is None or isinstance(sys.stderr, io.TextIOWrapper):
        buffer = open(2, "wb", closefd=False) if sys.stderr is None else sys.stderr.buffer  # noqa: SIM115
        encoding = "utf-8" if sys.stderr is None else sys.stderr.encoding
        sys.stderr = LenientStream(buffer, encoding, "backslashreplace", line_buffering=True)


@cache
def original_stdout() -> int:
    """A duplicate of stdout at the first call; Rich replaces stdout at a broken pipe."""
    return os.dup(1)


def discard_unwritable_output() -> None:
    """Send what stdout still holds to the null device if stdout does not accept it."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_end_of_reader(error: Exception) -> bool:
    """Whether the reader of stdout has exited, such as head; a broken pipe of a worker is another error."""
    if not isinstance(error, BrokenPipeError):
        return False
    poll = select.poll()
    poll.register(original_stdout(), 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))
