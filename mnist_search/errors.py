"""Exceptions of mnist-search and their exit codes.

Every message is one line: what is wrong, why, and the next command.
"""

from __future__ import annotations

import re
from typing import ClassVar

PASSWORDS = re.compile(
    r"([a-z][\w+.-]*:?//[^\s:/?#@]*:)(?:\S*(?=@)|(?!\d+\b)[^@\n]*(?=@))"  # spaces, unless after a port
    r"|([?&]\w*(?:password|token|secret)=)[^\s&'\"]+",
    re.IGNORECASE,
)
"""A password in a URL, before the host or in the query."""


def masked(text: str) -> str:
    """The text with ``***`` in place of every password of a URL in it."""
    return PASSWORDS.sub(r"\1\2***", text)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, masked, at most 200 characters; its class if it has no message."""
    return masked((str(error).strip() or type(error).__name__).splitlines()[0])[:200]


class MnistSearchError(Exception):
    """The work failed."""

    exit_code: ClassVar[int] = 1

    def __str__(self) -> str:
        return masked(super().__str__())


class UsageError(MnistSearchError):
    """The request cannot be met: bad values, an impossible budget."""

    exit_code = 2


class NoFinishedTrials(MnistSearchError):
    """A stop condition was met before any trial finished."""

    exit_code = 3


class StudyConflict(MnistSearchError):
    """The study exists with another configuration."""

    exit_code = 65


class NotFound(MnistSearchError):
    """No such store, study, trial or baseline."""

    exit_code = 66


class Unavailable(MnistSearchError):
    """Data or tracking server is unavailable."""

    exit_code = 69


class DiskError(MnistSearchError):
    """A file or the store cannot be read or written."""

    exit_code = 74


class TryAgain(MnistSearchError):
    """Workers crashed or a lock is held; the same command continues."""

    exit_code = 75


class UnusableConfiguration(MnistSearchError):
    """A store, device or setting is unusable on this machine."""

    exit_code = 78
