"""Environment variables that libraries read when they are imported."""

from __future__ import annotations

import os

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
