"""Which pruner finds the better network in the same number of trained epochs.

Searches are replayed from whole learning curves in random orders. Those of ``bench.fidelity`` are
two trainings of random networks: the pruner sees one of each and decides, the network that the
search ends with is judged by the other, which played no part. Those of a study without a score
pruner are one training of each network that a search of ours proposed; it is judged by the same.

    python -m mnist_search.research.compare_pruners curves FILE.jsonl
    python -m mnist_search.research.compare_pruners study studies.db budget-8000
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

from mnist_search.research.fidelity import EPOCHS, complete
from mnist_search.research.jsonl import read, verbs
from mnist_search.search.pruners import PRUNERS
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store

Networks: TypeAlias = Sequence[Sequence[Sequence[float]]]
"""Of each network two learning curves, or one: accuracy by epoch."""

ALLOWANCES = (75, 150, 300)
"""Trained epochs of a search: five, ten and twenty whole trainings."""


@dataclass(frozen=True, slots=True)
class GraphReplayFake:
    """How one search went.

    Attributes:
        found: accuracy in its other training of the network that the search chose.
        started, finished: networks that were begun, and trained to their end.
    """

    found: float
    started: int
    finished: int


OrdersOption: TypeAlias = Annotated[int, typer.Option(min=2, help="Random orders in which networks come.")]


def curves(
    file: Path,
    orders: OrdersOption = 50,
    resamples: Annotated[int, typer.Option(min=2, help="Sets of networks for the intervals.")] = 200,
) -> None:
    """Print what every pruner finds in the trainings of ``bench.fidelity``, in both of their roles."""
    networks = [
        [[record["val_accuracy"] for record in training["curve"]] for training in kinds["full"]]
        for kinds in complete(read(file)).values()
    ]
    _print_cells(networks, orders)
    typer.echo(f"\nMean over {ALLOWANCES} epochs, less that of none; {resamples} sets of networks.\n")
    typer.echo("| pruner | more than none | 95 % of sets |\n|---|--:|--:|")
    for name, more in _more_than_none(networks, resamples).items():
        low, high = np.quantile(more, (0.025, 0.975))
        typer.echo(f"| {name} | {mean(more):+.3f} | {low:+.3f} to {high:+.3f} |")


def study(storage: Path, name: str, orders: OrdersOption = 50) -> None:
    """Print what every pruner would have found in a study that was run without one."""
    trials = SearchStudy.open(Store.open(f"sqlite:///{storage}"), name).record().done
    whole = [
        [epoch["val_accuracy"] for epoch in trial.curve] for trial in trials if trial.state == "COMPLETE"
    ]
    if not whole or len(whole) < len(trials):
        raise typer.BadParameter(f"{name} has trials without a whole curve: what ended them chose the rest")
    _print_cells([[curve] for curve in whole], orders)


def _print_cells(networks: Networks, orders: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    ends = [training[-1] for trainings in networks for training in trainings]
    typer.echo(
        f"{len(networks)} networks, {EPOCHS} epochs; their accuracies at the end: median "
        f"{100 * float(np.median(ends)):.2f}, best {100 * max(ends):.2f}. {len(networks[0]) * orders} searches a cell.\n"
    )
    typer.echo("| pruner | epochs | found, mean (sd) | networks begun | trained to the end |")
    typer.echo("|---|--:|--:|--:|--:|")
    for allowance, name in product(ALLOWANCES, PRUNERS):
        _print(name, allowance, _searches(networks, name, allowance, range(orders)))


def _searches(networks: Networks, name: str, allowance: int, orders: Sequence[int]) -> list[GraphReplayFake]:
    return [
        search(networks, order, seen, PRUNERS[name](EPOCHS), allowance)
        for order, seen in product(orders, range(len(networks[0])))
    ]


def _print(name: str, allowance: int, searches: Sequence[GraphReplayFake]) -> None:
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


def search(networks: Networks, order: int, seen: int, pruner: BasePruner, allowance: int) -> GraphReplayFake:
    """One random search under a pruner, until its epochs are spent or no network is left.

    Args:
        networks: what random search would propose.
        order: seed of the order in which networks come.
        seen: which of the curves the search sees; it is judged by the other.
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
    return GraphReplayFake(networks[best][-1 - seen][-1], started, len(ends))


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
    verbs(curves, study)
