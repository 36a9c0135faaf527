"""Compare rules that select a champion among finalists: training runs, wrong champions, accuracy lost.

A finalist has an expected accuracy, and a training run measures it with noise. ``resample`` draws runs from
the final trials of a store, whose means are taken as the expected accuracies. ``simulate`` draws both from
normal distributions: the finalists are the best of all candidates in a search that trained each once.

    python -m mnist_search.research.compare_finals resample experiments/measured/studies.db budget-8000
    python -m mnist_search.research.compare_finals simulate
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeAlias

import numpy as np
import typer

from mnist_search.evaluation.finals import finals_of
from mnist_search.research.jsonl import run_commands
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store

Accuracies: TypeAlias = np.ndarray
"""Accuracy in %, by simulation, finalist and training run; run 0 is that of the search."""

N_RUNS = 6
SEEDS = 5
"""Seeds of the champion on the test set; they do not select."""


def search_only(runs: Accuracies) -> np.ndarray:
    """The best finalist of the search."""
    best: np.ndarray = np.argmax(runs[:, :, 0], axis=1)
    return best


def halving(runs: Accuracies) -> np.ndarray:
    """Successive halving on the means of all runs so far, as ``evaluation.finals.next_tasks`` does it."""
    left = np.tile(np.arange(runs.shape[1]), (len(runs), 1))
    n_runs = 1
    while left.shape[1] > 1:
        n_runs += 1
        means = np.take_along_axis(runs[:, :, :n_runs].mean(2), left, 1)
        order = np.argsort(-means, 1, kind="stable")[:, : left.shape[1] // 2]
        left = np.take_along_axis(left, order, 1)
    champion: np.ndarray = left[:, 0]
    return champion


def repeat_all(runs: Accuracies) -> np.ndarray:
    """The best mean of the search and five more runs of every finalist."""
    best: np.ndarray = np.argmax(runs.mean(2), axis=1)
    return best


RULES = {"best of the search": search_only, "halving": halving, "five more runs of each": repeat_all}


def n_trainings(rule: str, finalists: int) -> int:
    """Training runs of a rule: those that select, and the champion's on the test set."""
    repeats = 0
    if rule == "five more runs of each":
        repeats = (N_RUNS - 1) * finalists
    while rule == "halving" and finalists > 1:
        repeats += finalists
        finalists //= 2
    return repeats + SEEDS


DrawsOption: TypeAlias = Annotated[int, typer.Option(min=100, help="Simulations.")]


def resample(storage: Path, name: str, draws: DrawsOption = 20_000) -> None:
    """Draw the runs of every finalist with replacement from its final trials (Efron 1979)."""
    store = Store.open(f"sqlite:///{storage}")
    record = finals_of(store, SearchStudy.open(store, name).record())
    if record is None:
        raise typer.BadParameter(f"{name} has no finals")
    by_name: defaultdict[str, list[float]] = defaultdict(list)
    for trial in record.of_round(record.rounds):
        if trial.task and trial.test_accuracy is not None:
            by_name[trial.task.name].append(100 * trial.test_accuracy)
    rng = np.random.default_rng(0)
    runs = np.stack([rng.choice(values, (draws, N_RUNS)) for values in by_name.values()], axis=1)
    expected = np.array([np.mean(values) for values in by_name.values()])
    _print_table({name: (np.tile(expected, (draws, 1)), runs)})


def simulate(
    candidates: Annotated[int, typer.Option(min=2, help="Complete trials of the search.")] = 9,
    finalists: Annotated[int, typer.Option(min=1)] = 5,
    noise: Annotated[float, typer.Option(help="Sd over seeds, percentage points.")] = 0.06,
    draws: DrawsOption = 20_000,
) -> None:
    """Draw expected accuracies with several standard deviations."""
    rng = np.random.default_rng(0)
    cases = {}
    for spread in (0.02, 0.04, 0.06):
        expected = rng.normal(0, spread, (draws, candidates))
        runs = expected[:, :, None] + rng.normal(0, noise, (draws, candidates, N_RUNS))
        best = np.argsort(-runs[:, :, 0], 1)[:, :finalists]
        cases[f"sd {spread} over networks, {noise} over seeds"] = (
            np.take_along_axis(expected, best, 1),
            np.take_along_axis(runs, best[:, :, None], 1),
        )
    _print_table(cases)


def _print_table(cases: Mapping[str, tuple[np.ndarray, Accuracies]]) -> None:
    typer.echo("| finalists | rule | training runs | not the best | percentage points lost, mean |")
    typer.echo("|---|---|--:|--:|--:|")
    for case, (expected, runs) in cases.items():
        best = expected.max(1)
        for rule, select in RULES.items():
            found = np.take_along_axis(expected, select(runs)[:, None], 1)[:, 0]
            typer.echo(
                f"| {case} | {rule} | {n_trainings(rule, runs.shape[1])} | {(found < best).mean():.0%} | "
                f"{(best - found).mean():.4f} |"
            )


if __name__ == "__main__":
    run_commands(resample, simulate)
