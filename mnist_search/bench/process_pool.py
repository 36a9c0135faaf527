"""Warm processes that do the same piece of work at the same time."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from mnist_search.process_env import ExitWithoutTeardown
from mnist_search.training.device import use_one_thread

P = ParamSpec("P")
T = TypeVar("T")


class ProcessPool:
    """Processes that stay warm between pieces of work.

    Args:
        processes: how many.
        one_thread: give each a single thread, as a worker has, instead of torch's own choice.

    Attributes:
        processes: how many there are.
    """

    def __init__(self, processes: int, *, one_thread: bool) -> None:
        self.processes = processes
        context = multiprocessing.get_context("spawn")
        self._members = [ProcessPoolExecutor(1, context, _begin, (one_thread,)) for _ in range(processes)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for wait in (False, True):  # all of them end at the same time
            for member in self._members:
                member.shutdown(wait)

    def warm_up(self, work: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Have every member start and do this, without waiting for it."""
        for member in self._members:
            member.submit(work, *args, **kwargs)

    def run_all(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> list[T]:
        """Have every member do this now; what each of them answers."""
        return self.run_on(self.processes, work, *args, **kwargs)

    def run_on(self, members: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> list[T]:
        """Have this many members do this now while the others rest; what each of them answers."""
        answers = [member.submit(work, *args, **kwargs) for member in self._members[:members]]
        return [answer.result() for answer in answers]

    def run_one(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Have one member do this while the others rest."""
        return self.run_on(1, work, *args, **kwargs)[0]


def _begin(one_thread: bool) -> None:
    ExitWithoutTeardown().code = 0
    if one_thread:
        use_one_thread()
