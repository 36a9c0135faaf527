"""Long-lived processes that run the same function concurrently."""

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
    """A pool in which every process has its own queue, so that all of them run concurrently.

    Args:
        processes: number of processes.
        one_thread: give each process one thread, as a worker has, instead of torch's default.
    """

    def __init__(self, processes: int, *, one_thread: bool) -> None:
        self.processes = processes
        context = multiprocessing.get_context("spawn")
        self._executors = [
            ProcessPoolExecutor(1, context, _initialize, (one_thread,)) for _ in range(processes)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for wait in (False, True):  # the processes exit concurrently
            for executor in self._executors:
                executor.shutdown(wait)

    def warm_up(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Start every process and call ``function`` in it, without waiting."""
        for executor in self._executors:
            executor.submit(function, *args, **kwargs)

    def run_all(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> list[T]:
        """Call ``function`` in every process concurrently; the results by process."""
        futures = [executor.submit(function, *args, **kwargs) for executor in self._executors]
        return [future.result() for future in futures]

    def run_one(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function`` in the first process while the others are idle."""
        return self._executors[0].submit(function, *args, **kwargs).result()


def _initialize(one_thread: bool) -> None:
    ExitWithoutTeardown().code = 0
    if one_thread:
        use_one_thread()
