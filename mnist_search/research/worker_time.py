"""Measure how much of the workers' time a study spends in training steps and evaluation.

The time of a worker is that from the start of its first trial to the end of its last one, in a study that was
not interrupted. The rest is proposals, the store, building networks and waiting for another worker's lock.

    python -m mnist_search.research.worker_time sqlite:///mnist-search.db budget-8000
"""

from __future__ import annotations

from collections.abc import Sequence

import typer

from mnist_search.records import TrialRecord
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store


def report(storage: str, study: str) -> None:
    """Print the share of the workers' time outside of epochs, and the mean of that time per trial."""
    trials = SearchStudy.open(Store.open(storage), study).record().done
    workers = assign(trials)
    share = share_outside_epochs(trials)
    per_trial = share * seconds_of(workers) / len(trials)
    epochs = sum(trial.epochs for trial in trials)
    typer.echo(
        f"{len(trials)} trials, {epochs} epochs, {len(workers)} workers, {seconds_of(workers):.0f} s of theirs: "
        f"{share:.1%} outside of epochs, {per_trial:.2f} s per trial"
    )


def share_outside_epochs(trials: Sequence[TrialRecord]) -> float:
    """The share of the workers' time in which they neither trained nor evaluated."""
    in_epochs = sum(epoch.seconds for trial in trials for epoch in trial.curve)
    return 1 - in_epochs / seconds_of(assign(trials))


def seconds_of(workers: Sequence[Sequence[TrialRecord]]) -> float:
    """Sum of the workers' times from the start of the first to the end of the last trial."""
    return sum(_end(worker[-1]) - _start(worker[0]) for worker in workers)


def assign(trials: Sequence[TrialRecord]) -> list[list[TrialRecord]]:
    """The trials of every worker: each trial follows the one that ended last before its start."""
    workers: list[list[TrialRecord]] = []
    for trial in sorted(trials, key=_start):
        free = [worker for worker in workers if _end(worker[-1]) <= _start(trial)]
        if free:
            max(free, key=lambda worker: _end(worker[-1])).append(trial)
        else:
            workers.append([trial])
    return workers


def _start(trial: TrialRecord) -> float:
    assert trial.started is not None
    return trial.started.timestamp()


def _end(trial: TrialRecord) -> float:
    assert trial.completed is not None
    return trial.completed.timestamp()


if __name__ == "__main__":
    typer.run(report)
