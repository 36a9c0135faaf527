"""Circuit breaker around MLflow: a tracking failure never fails a trial."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

T = TypeVar("T")

COOLDOWN_SECONDS = 30.0
"""Time without calls after a failed one."""


class CircuitBreaker:
    """Calls MLflow, and skips all calls for ``cooldown_seconds`` after one has failed.

    Args:
        warn: receives one message, about the first failure.
        cooldown_seconds: time without calls after a failed one.
    """

    def __init__(self, warn: Callable[[str], None], cooldown_seconds: float = COOLDOWN_SECONDS) -> None:
        self._warn = warn
        self._cooldown_seconds = cooldown_seconds
        self._open_until = 0.0
        self._warned = False

    def __call__(self, action: str, call: Callable[[], T]) -> T | None:
        """The result of ``call``, or None; the warning says that MLflow could not ``action``."""
        if time.monotonic() < self._open_until:
            return None
        try:
            return call()
        except (MlflowException, SQLAlchemyError, OSError) as error:
            self._open_until = time.monotonic() + self._cooldown_seconds
            if not self._warned:
                reason = str(error).strip().splitlines()[0][:200]
                self._warn(
                    f"MLflow cannot {action} ({reason}); training continues, and missing "
                    "runs are written from the store by the next mnist-search run, resume, finalize or reproduce"
                )
            self._warned = True
            return None
