"""Compare pruners by the network that a search finds in the same number of trained epochs.

Searches are replayed from complete learning curves in random order. ``curves`` replays the random
networks of ``fidelity``, each trained with two seeds: the pruner sees one training run, and the other
one scores the selected network. ``study`` replays a study without a score pruner, which has one
training per network for both. ``rules`` compares rules of successive halving on all networks of
``fidelity``: when they first decide, on which accuracy, and screening on complete schedules.

    python -m mnist_search.research.compare_pruners curves FILE.jsonl
    python -m mnist_search.research.compare_pruners rules FILE.jsonl
    python -m mnist_search.research.compare_pruners study studies.db budget-8000
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any, TypeAlias

import numpy as np
import optuna
import typer
from optuna.pruners import BasePruner, SuccessiveHalvingPruner
from optuna.trial import TrialState

from experiments.study_config import rungs
from mnist_search.research.fidelity import EPOCHS, RESTARTED, complete
from mnist_search.research.jsonl import read, run_commands
from mnist_search.search.pruners import PRUNERS, ScreeningPruner
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store

Networks: TypeAlias = Sequence[Sequence[Sequence[float]]]
"""Accuracy by network, training (one or two per network) and epoch."""

EPOCH_BUDGETS = (75, 150, 300)
"""Trained epochs of a search: five, ten and twenty complete training runs."""


@dataclass(frozen=True, slots=True)
class ReplayedSearch:
    """The result of one replayed search.

    Attributes:
        accuracy: of the selected network, in the training run that the pruner did not see.
        started, completed: number of networks.
        epochs: trained.
    """

    accuracy: float
    started: int
    completed: int
    epochs: int


OrdersOption: TypeAlias = Annotated[int, typer.Option(min=2, help="Random orders of the networks.")]


def curves(
    file: Path,
    orders: OrdersOption = 50,
    resamples: Annotated[int, typer.Option(min=2, help="Bootstrap samples of the networks.")] = 200,
) -> None:
    """Compare the pruners on the training runs of ``fidelity``."""
    networks = [
        [[record["val_accuracy"] for record in training["curve"]] for training in kinds["full"]]
        for kinds in complete(read(file)).values()
    ]
    _print_table(networks, orders)
    typer.echo(f"\nMean over {EPOCH_BUDGETS} epochs minus that without a pruner; {resamples} resamples.\n")
    typer.echo("| pruner | difference | 95 % interval |\n|---|--:|--:|")
    for name, differences in _bootstrap(networks, resamples).items():
        low, high = np.quantile(differences, (0.025, 0.975))
        typer.echo(f"| {name} | {mean(differences):+.3f} | {low:+.3f} to {high:+.3f} |")


def rules(
    file: Path,
    orders: OrdersOption = 200,
    resamples: Annotated[int, typer.Option(min=2, help="Bootstrap samples of the networks.")] = 200,
    improving: Annotated[
        bool, typer.Option(help="Later networks tend to be better, as those of a sampler that learns.")
    ] = False,
) -> None:
    """Compare rules on all networks: trained epochs, and the found network in an unseen training run."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    cases = _rules(complete(read(file)))
    reference = next(iter(cases))
    order_of = _improving_order if improving else _random_order
    n_networks = len(cases[reference][1])
    typer.echo(f"{n_networks} networks, {orders} orders, {resamples} resamples of the networks.\n")
    typer.echo("| rule | epochs per network | completed | accuracy, mean (sd) | difference | 95 % interval |")
    typer.echo("|---|--:|--:|--:|--:|--:|")
    rng = np.random.default_rng(0)
    samples = [rng.integers(n_networks, size=n_networks) for _ in range(resamples)]
    scores = {
        name: [100 * _search_all(pruner, order_of([networks[n] for n in sample], order)).accuracy
               for order, sample in enumerate(samples)]
        for name, (pruner, networks) in cases.items()
    }  # fmt: skip
    for name, (pruner, networks) in cases.items():
        found = [_search_all(pruner, order_of(networks, order)) for order in range(orders)]
        accuracies = [100 * each.accuracy for each in found]
        differences = np.array(scores[name]) - np.array(scores[reference])
        low, high = np.quantile(differences, (0.025, 0.975))
        typer.echo(
            f"| {name} | {mean(each.epochs for each in found) / n_networks:.1f} | "
            f"{mean(each.completed for each in found):.1f} | {mean(accuracies):.3f} ({stdev(accuracies):.3f}) | "
            f"{differences.mean():+.3f} | {low:+.3f} to {high:+.3f} |"
        )


def _rules(trainings: Mapping[int, Mapping[str, Any]]) -> dict[str, tuple[BasePruner, Networks]]:
    """Pruners and curves by rule; the first curve of a network is seen, the accuracy of the second is the score."""
    unseen = [_accuracies(kinds["full"][1]) for kinds in trainings.values()]
    raw = [_accuracies(kinds["full"][0]) for kinds in trainings.values()]
    averaged = [_averaged(kinds["full"][0]) for kinds in trainings.values()]
    screened = [_screened(kinds) for kinds in trainings.values()]
    cases: dict[str, tuple[BasePruner, list[list[float]]]] = {
        f"halving from epoch {first}, {name}": (SuccessiveHalvingPruner(first, 3), seen)
        for name, seen in (("raw", raw), ("averaged", averaged))
        for first in (5, 2, 1)
    }
    cases |= {"none": (PRUNERS["none"](EPOCHS), raw), "median": (PRUNERS["median"](EPOCHS), raw)}
    cases["screening"] = (PRUNERS["screening"](EPOCHS), screened)
    cases["screening, without a limit"] = (ScreeningPruner(rungs(EPOCHS)[:-1], max_promoted=1), screened)
    return {name: (pruner, list(zip(seen, unseen, strict=True))) for name, (pruner, seen) in cases.items()}


def _accuracies(training: Mapping[str, Any]) -> list[float]:
    return [record["val_accuracy"] for record in training["curve"]]


def _averaged(training: Mapping[str, Any]) -> list[float]:
    """The curve, with the accuracy of averaged weights after the epochs for which it was measured."""
    averaged = {int(epoch): values["val_accuracy"] for epoch, values in training["averaged"].items()}
    return [averaged.get(epoch, value) for epoch, value in enumerate(_accuracies(training), 1)]


def _screened(kinds: Mapping[str, Any]) -> list[float]:
    """The curve of a training with the restarts of screening.

    Where the file lacks it, the first rung is a complete schedule of two epochs, and the second one the
    accuracy of averaged weights.
    """
    if RESTARTED in kinds:
        return _accuracies(kinds[RESTARTED][0])
    curve, short = _averaged(kinds["full"][0]), _accuracies(kinds[f"short-{rungs(EPOCHS)[0]}"][0])
    return short + curve[len(short) :]


def _search_all(pruner: BasePruner, networks: Networks) -> ReplayedSearch:
    return replay(networks, range(len(networks)), 0, pruner, epoch_budget=EPOCHS * len(networks))


def _random_order(networks: Networks, seed: int) -> Networks:
    return [networks[n] for n in _permutation(len(networks), seed)]


def _permutation(length: int, seed: int) -> list[int]:
    return [int(index) for index in np.random.default_rng(seed).permutation(length)]


def _improving_order(networks: Networks, seed: int) -> Networks:
    """The order of the unseen accuracies' ranks, with noise of a third of the number of networks."""
    ranks = np.argsort(np.argsort([unseen[-1] for _, unseen in networks]))
    noise = np.random.default_rng(seed).normal(0, len(networks) / 3, len(networks))
    return [networks[n] for n in np.argsort(ranks + noise)]


def study(storage: Path, name: str, orders: OrdersOption = 50) -> None:
    """Compare the pruners on a study that was run without one."""
    trials = SearchStudy.open(Store.open(f"sqlite:///{storage}"), name).record().done
    accuracies = [
        [epoch.val_accuracy or 0.0 for epoch in trial.curve] for trial in trials if trial.state == "COMPLETE"
    ]
    if not accuracies or len(accuracies) < len(trials):
        raise typer.BadParameter(f"{name} has trials that did not complete; run it with --pruner none")
    _print_table([[curve] for curve in accuracies], orders)


def _print_table(networks: Networks, orders: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    ends = [training[-1] for trainings in networks for training in trainings]
    typer.echo(
        f"{len(networks)} networks, {EPOCHS} epochs; final accuracy: median {100 * float(np.median(ends)):.2f}, "
        f"best {100 * max(ends):.2f}. {len(networks[0]) * orders} searches per row.\n"
    )
    typer.echo("| pruner | epochs | accuracy, mean (sd) | networks started | completed |")
    typer.echo("|---|--:|--:|--:|--:|")
    for epoch_budget, name in product(EPOCH_BUDGETS, PRUNERS):
        searches = _searches(networks, name, epoch_budget, range(orders))
        accuracies = [100 * each.accuracy for each in searches]
        typer.echo(
            f"| {name} | {epoch_budget} | {mean(accuracies):.3f} ({stdev(accuracies):.3f}) | "
            f"{mean(s.started for s in searches):.1f} | {mean(s.completed for s in searches):.1f} |"
        )


def _searches(
    networks: Networks, name: str, epoch_budget: int, orders: Sequence[int]
) -> list[ReplayedSearch]:
    return [
        replay(networks, _permutation(len(networks), seed), training, PRUNERS[name](EPOCHS), epoch_budget)
        for seed, training in product(orders, range(len(networks[0])))
    ]


def _bootstrap(networks: Networks, resamples: int) -> dict[str, list[float]]:
    """Differences to the search without a pruner, in percentage points, by pruner and resample.

    All searches share their networks, so the uncertainty is that of the networks: they are
    resampled with replacement (Efron 1979, doi 10.1214/aos/1176344552), each time in another order.
    """
    differences: dict[str, list[float]] = {name: [] for name in PRUNERS if name != "none"}
    for number in range(resamples):
        indices = np.random.default_rng((number, 1)).integers(len(networks), size=len(networks))
        sample = [networks[n] for n in indices]
        accuracy = {
            name: mean(
                100 * search.accuracy
                for epoch_budget in EPOCH_BUDGETS
                for search in _searches(sample, name, epoch_budget, [number])
            )
            for name in PRUNERS
        }
        for name, values in differences.items():
            values.append(accuracy[name] - accuracy["none"])
    return differences


def replay(
    networks: Networks, order: Sequence[int], training: int, pruner: BasePruner, epoch_budget: int
) -> ReplayedSearch:
    """Replay one search under a pruner until its epochs or the networks are used up.

    Args:
        networks: the proposals of random search.
        order: indices of the networks.
        training: index of the training run that the pruner sees.
        pruner: called after every epoch but the last.
        epoch_budget: trained epochs; the last network may exceed it.
    """
    study = optuna.create_study(study_name=f"replay-{training}", direction="maximize", pruner=pruner)
    final_accuracy: dict[int, float] = {}
    epochs = started = 0
    for network in order:
        if epochs >= epoch_budget:
            break
        trained, accuracy = _train(study, networks[network][training])
        started += 1
        epochs += trained
        if accuracy is not None:
            final_accuracy[network] = accuracy
    best = max(final_accuracy, key=final_accuracy.__getitem__)
    return ReplayedSearch(networks[best][-1 - training][-1], started, len(final_accuracy), epochs)


def _train(study: optuna.Study, curve: Sequence[float]) -> tuple[int, float | None]:
    """Number of epochs of one trial, and its final accuracy; None if it was pruned."""
    trial = study.ask()
    for epoch, accuracy in enumerate(curve, 1):
        trial.report(accuracy, epoch)
        if epoch < len(curve) and trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return epoch, None
    study.tell(trial, curve[-1])
    return len(curve), curve[-1]


if __name__ == "__main__":
    run_commands(curves, rules, study)
