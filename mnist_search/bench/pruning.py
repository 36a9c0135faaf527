"""Which pruner finds the better network in the same number of trained epochs.

Random searches are replayed from whole learning curves (those of ``bench.fidelity``): the pruner
sees one training of each network and decides, the network that the search ends with is judged
by its other training, which played no part.

    python -m mnist_search.bench.pruning FILE.jsonl
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, TypeAlias

import numpy as np
import optuna
import typer
from optuna.pruners import BasePruner
from optuna.trial import TrialState

from mnist_search.bench.fidelity import EPOCHS, SEEDS, complete
from mnist_search.bench.lines import read
from mnist_search.study.pruners import PRUNERS

Networks: TypeAlias = Sequence[Sequence[Sequence[float]]]
"""Of each network two learning curves, accuracy by epoch."""

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
    resamples: Annotated[int, typer.Option(min=2, help="Sets of networks for the intervals.")] = 200,
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
    typer.echo("| pruner | epochs | found, mean (sd) | networks begun | trained to the end |")
    typer.echo("|---|--:|--:|--:|--:|")
    for allowance, name in product(ALLOWANCES, PRUNERS):
        _print(name, allowance, _searches(networks, name, allowance, range(orders)))
    typer.echo(f"\nMean over {ALLOWANCES} epochs, less that of none; {resamples} sets of networks.\n")
    typer.echo("| pruner | more than none | 95 % of sets |\n|---|--:|--:|")
    for name, more in _more_than_none(networks, resamples).items():
        low, high = np.quantile(more, (0.025, 0.975))
        typer.echo(f"| {name} | {mean(more):+.3f} | {low:+.3f} to {high:+.3f} |")


def _searches(networks: Networks, name: str, allowance: int, orders: Sequence[int]) -> list[Replayed]:
    return [
        search(networks, order, seen, PRUNERS[name](EPOCHS), allowance)
        for order, seen in product(orders, range(len(SEEDS)))
    ]


def _print(name: str, allowance: int, searches: Sequence[Replayed]) -> None:
    found = [100 * one.found for one in searches]
    typer.echo(
        f"| {name} | {allowance} | {mean(found):.3f} ({stdev(found):.3f}) | "
        f"{mean(s.started for s in searches):.1f} | {mean(s.finished for s in searches):.1f} |"
    )


def _more_than_none(networks: Networks, resamples: int) -> dict[str, list[float]]:
    """How much more each pruner finds, in percent, for networks drawn again with replacement.

    All searches share their networks, so that only other networks can tell how far to trust them:
    the bootstrap (Efron 1979, doi 10.1214/aos/1176344552), with an order of its own for each set.
    """
    more: dict[str, list[float]] = {name: [] for name in PRUNERS if name != "none"}
    for number in range(resamples):
        drawn = np.random.default_rng((number, 1)).integers(len(networks), size=len(networks))
        found = {
            name: mean(
                100 * one.found
                for allowance in ALLOWANCES
                for one in _searches([networks[n] for n in drawn], name, allowance, [number])
            )
            for name in PRUNERS
        }
        for name, differences in more.items():
            differences.append(found[name] - found["none"])
    return more


def search(networks: Networks, order: int, seen: int, pruner: BasePruner, allowance: int) -> Replayed:
    """One random search under a pruner, until its epochs are spent or no network is left.

    Args:
        networks: what random search would propose.
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
