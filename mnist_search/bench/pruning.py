"""Which pruner finds the better network in the same number of trained epochs.

Random searches are replayed from whole learning curves (those of ``bench.fidelity``): the pruner
sees one training of each network and decides, the network that the search ends with is judged
by its other training, which played no part.

    python -m mnist_search.bench.pruning FILE.jsonl
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated

import numpy as np
import optuna
import typer
from optuna.pruners import BasePruner
from optuna.trial import TrialState

from mnist_search.bench.fidelity import EPOCHS, SEEDS, complete
from mnist_search.bench.lines import read
from mnist_search.study.pruners import PRUNERS

ALLOWANCES = (75, 150, 300)
"""Trained epochs of a search: five, ten and twenty whole trainings."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """How one search went.

    Attributes:
        found: accuracy in its other training of the network that the search chose.
        started, finished: networks that were begun, and trained to their end.
    """

    found: float
    started: int
    finished: int


def main(
    curves: Path,
    orders: Annotated[int, typer.Option(min=2, help="Random orders in which networks come.")] = 50,
) -> None:
    """Print what every pruner finds, over random orders and both roles of the two trainings."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    networks = [
        [[record["val_accuracy"] for record in training["curve"]] for training in kinds["full"]]
        for kinds in complete(read(curves)).values()
    ]
    ends = [training[-1] for trainings in networks for training in trainings]
    typer.echo(
        f"{len(networks)} networks, {EPOCHS} epochs; their accuracies at the end: median "
        f"{100 * float(np.median(ends)):.2f}, best {100 * max(ends):.2f}. {2 * orders} searches a cell.\n"
    )
    typer.echo(
        "| pruner | epochs | found, mean (sd) | standard error | networks begun | trained to the end |"
    )
    typer.echo("|---|--:|--:|--:|--:|--:|")
    for allowance in ALLOWANCES:
        for name in PRUNERS:
            searches = [
                search(networks, order, seen, PRUNERS[name](EPOCHS), allowance)
                for order in range(orders)
                for seen in range(len(SEEDS))
            ]
            _print(name, allowance, searches)


def _print(name: str, allowance: int, searches: Sequence[Replayed]) -> None:
    found = [100 * one.found for one in searches]
    typer.echo(
        f"| {name} | {allowance} | {mean(found):.3f} ({stdev(found):.3f}) | "
        f"{stdev(found) / len(found) ** 0.5:.3f} | {mean(s.started for s in searches):.1f} | "
        f"{mean(s.finished for s in searches):.1f} |"
    )


def search(
    networks: Sequence[Sequence[Sequence[float]]], order: int, seen: int, pruner: BasePruner, allowance: int
) -> Replayed:
    """One random search under a pruner, until its epochs are spent or no network is left.

    Args:
        networks: of each network two learning curves, accuracy by epoch.
        order: seed of the order in which networks come.
        seen: which of the two curves the search sees.
        pruner: decides after every epoch but the last.
        allowance: trained epochs; a network that is begun with some left may be finished.
    """
    study = optuna.create_study(study_name=f"replay-{order}-{seen}", direction="maximize", pruner=pruner)
    ends: dict[int, float] = {}
    spent = started = 0
    for network in np.random.default_rng(order).permutation(len(networks)).tolist():
        if spent >= allowance:
            break
        epochs, end = _train(study, networks[network][seen])
        started += 1
        spent += epochs
        if end is not None:
            ends[network] = end
    best = max(ends, key=ends.__getitem__)
    return Replayed(networks[best][1 - seen][-1], started, len(ends))


def _train(study: optuna.Study, curve: Sequence[float]) -> tuple[int, float | None]:
    """Epochs that one trial takes, and where it ends unless it is pruned."""
    trial = study.ask()
    for epoch, accuracy in enumerate(curve, 1):
        trial.report(accuracy, epoch)
        if epoch < len(curve) and trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return epoch, None
    study.tell(trial, curve[-1])
    return len(curve), curve[-1]


if __name__ == "__main__":
    typer.run(main)
