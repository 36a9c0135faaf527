"""How our processes end: after their exit hooks, without being taken apart."""

from __future__ import annotations

import atexit
import os
import sys


class Ending:
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
