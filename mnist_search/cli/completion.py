"""Completion of values in a shell: studies of the store, samplers, pruners, baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from typer import Context

from mnist_search.process_env import STORAGE

SAMPLERS = ("tpe", "random", "gp", "mutation")
PRUNERS = ("screening", "asha", "median", "percentile", "hyperband", "none")
DEVICES = ("auto", "cpu", "mps", "cuda")


def one_of(*choices: str) -> Callable[[str], list[str]]:
    """Complete one of some choices."""

    def complete(incomplete: str) -> list[str]:
        return _matching(choices, incomplete)

    return complete


def study(context: Context, incomplete: str) -> list[str]:
    """Complete the name of a search study of the store that the command line names; none if it cannot be read."""
    from mnist_search.storage.names import search_study_names

    try:
        names = search_study_names(context.params.get("storage") or STORAGE.value)
    except Exception:  # noqa: BLE001 - a traceback would disturb the command line that is being typed
        return []
    return _matching(names, incomplete)


def param(incomplete: str) -> list[str]:
    """Complete the name of a param of the search space."""
    from search_space import SearchSpace

    return _matching((f"{name}=" for name in SearchSpace.widest().distributions), incomplete)


def baseline(incomplete: str) -> list[str]:
    """Complete the name of a baseline."""
    from experiments import BASELINES

    return _matching(BASELINES, incomplete)


def baseline_or_all(incomplete: str) -> list[str]:
    """Complete the name of a baseline, or ``all``."""
    return [*baseline(incomplete), *_matching(["all"], incomplete)]


def _matching(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
