"""How MLflow is called: gently, and never so that a trial fails for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

T = TypeVar("T")

COOLDOWN_SECONDS = 30.0
"""How long MLflow is left alone after it could not be reached."""


class CircuitBreaker:
    """Calls MLflow, and leaves it alone for a while when it cannot be reached."""

    def __init__(self, warn: Callable[[str], None], quiet_seconds: float = COOLDOWN_SECONDS) -> None:
        self._warn = warn
        self._quiet_seconds = quiet_seconds
        self._quiet_until = 0.0
        self._warned = False

    def __call__(self, what: str, call: Callable[[], T]) -> T | None:
        """What ``call`` gives, or None; ``what`` tells the user what was not taken."""
        if time.monotonic() < self._quiet_until:
            return None
        try:
            return call()
        except (MlflowException, SQLAlchemyError, OSError) as error:
            self._quiet_until = time.monotonic() + self._quiet_seconds
            if not self._warned:
                reason = str(error).strip().splitlines()[0][:200]
                self._warn(
                    f"MLflow did not take {what} ({reason}); training goes on and the runs are "
                    "written from the store when the study is next run or resumed"
                )
            self._warned = True
            return None


def quieten() -> None:
    """MLflow and alembic announce every step of a first start."""
    for name in ("mlflow", "alembic", "torch.export", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.ERROR)
