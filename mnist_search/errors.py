"""Exceptions of mnist-search and their exit codes.

MnistSearchError             1   the work failed
|-- UsageError               2   the request cannot be met: bad values, an impossible budget
|-- NoFinishedTrials         3   a stop condition was met before any trial finished
|-- StudyConflict           65   the study exists with another configuration
|-- NotFound                66   no such store, study, trial or baseline
|-- Unavailable             69   data or tracking server is unavailable
|-- DiskError               74   a file or the store cannot be read or written
|-- TryAgain                75   workers crashed or a lock is held; the same command continues
`-- UnusableConfiguration   78   a store, device or setting is unusable on this machine

Every message is one line: what is wrong, why, and the next command.
"""

from __future__ import annotations

from typing import ClassVar


class MnistSearchError(Exception):
    """The work failed."""

    exit_code: ClassVar[int] = 1


class UsageError(MnistSearchError):
    """The request cannot be met."""

    exit_code = 2


class NoFinishedTrials(MnistSearchError):
    """A stop condition was met before any trial finished."""

    exit_code = 3


class StudyConflict(MnistSearchError):
    """The study exists with another configuration."""

    exit_code = 65


class NotFound(MnistSearchError):
    """No such store, study, trial or recipe."""

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
