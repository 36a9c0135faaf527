"""Environment variables that libraries read when they are imported."""

from __future__ import annotations

import atexit
import os
import sys

DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # The client's own defaults wait for minutes on a server that is down.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    # The server's job runner takes seven processes and 1.3 GB that nobody here uses.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


def set_defaults() -> None:
    """Set what the user has not set; before MLflow is imported, and for child processes too."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


class ExitWithoutTeardown:
    """The last exit hook of a process, which ends it there.

    To free every object once torch and MLflow are loaded takes an interpreter two to five seconds, in
    which its user or its supervisor waits, and gives back nothing that the system does not take anyway.
    Threads have ended by then, and every hook that was registered after this one has run (see
    ``atexit``); so make one before anything heavy is imported.

    Attributes:
        code: what the process exits with; 1 unless somebody knows better.
    """

    def __init__(self) -> None:
        self.code = 1
        atexit.register(self._end)

    def _end(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(self.code)
