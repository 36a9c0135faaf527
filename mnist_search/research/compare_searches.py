"""Which search finds the better network in the same number of trained epochs.

Our default, ours without known plans, without filling the budget, random within the budget, and what people write by
hand: Optuna's TPE as it comes, which prunes a proposal that is over. Every trial trains a short
schedule to its end; the network that a search ends with is trained again with other seeds, and
those trainings are its score. Run one part a core, as often as it takes.

    python -m mnist_search.research.compare_searches train FILE.jsonl --part 0 --parts 2
    python -m mnist_search.research.compare_searches report FILE.jsonl
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import optuna
import typer
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import TrialState

from experiments import StudyConfig
from mnist_search.data import mnist
from mnist_search.data.dataset import Split, load_split
from mnist_search.research.jsonl import DataOption, DeviceOption, PartOption, PartsOption, append, read, verbs
from mnist_search.search.samplers import derive_seed, sampler_for_trial, trial_seed
from mnist_search.search.warm_start import known_templates
from mnist_search.training.device import resolve_device, select_compute_mode, use_one_thread
from mnist_search.training.fit import Diverged, fit
from mnist_search.training.model import build
from search_space import SearchSpace, TrialConfig
from search_space.space import Params

BUDGET, EPOCHS, TRIALS, RUNS = 8000, 3, 30, 3
TRAIN_IMAGES, VAL_IMAGES = 10_000, 10_000
AGAIN = (1, 2)
"""Seeds with which the network that was found is trained again."""


@dataclass(frozen=True, slots=True)
class Arm:
    """A way to search.

    Attributes:
        sampler_of: the sampler of a trial, from the experiment and the trial's number.
        first: what it begins with.
    """

    config: StudyConfig
    sampler_of: Callable[[StudyConfig, int], BaseSampler] = sampler_for_trial
    first: Sequence[Params] = ()


def arms(seed: int) -> dict[str, Arm]:
    """The searches that are compared, by name."""
    default = StudyConfig(
        budget=BUDGET, space=SearchSpace.for_budget(BUDGET, epochs=EPOCHS), pruner="none", seed=seed,
        train_images=TRAIN_IMAGES, val_images=VAL_IMAGES,
    )  # fmt: skip
    drawn = replace(default, fill=False)
    by_hand = TPESampler(seed=seed)
    return {
        "ours: known plans first, TPE, filled": Arm(default, first=known_templates(default)),
        "TPE, filled": Arm(default),
        "TPE, not filled": Arm(drawn),
        "random within the budget, filled": Arm(replace(default, sampler="random")),
        "plain TPE, prunes what is over": Arm(drawn, lambda *_: by_hand),
    }


def train(
    out: Path,
    part: PartOption = 0,
    parts: PartsOption = 1,
    data_dir: DataOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Run this part of the searches, a line of JSON for each."""
    use_one_thread()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    data = load_split(mnist.find(data_dir), TRAIN_IMAGES, VAL_IMAGES, 0, resolve_device(device))
    known = {(line["arm"], line["seed"]) for line in read(out)}
    for number, (seed, name) in enumerate(product(range(RUNS), arms(0))):
        if number % parts == part and (name, seed) not in known:
            append(out, {"arm": name, "seed": seed} | search(arms(seed)[name], data))


def search(arm: Arm, data: Split, trials: int = TRIALS) -> dict[str, Any]:
    """Train ``trials`` proposals of an arm, and the best one again."""
    study = optuna.create_study(direction="maximize")
    for params in arm.first:
        study.enqueue_trial(dict(params))
    curve: list[float] = []
    over = 0
    while len(curve) < trials:
        study.sampler = arm.sampler_of(arm.config, len(study.trials))
        trial = study.ask()
        config = arm.config.space.suggest(trial)
        if config.architecture.num_params() > BUDGET:
            study.tell(trial, state=TrialState.PRUNED)
            over += 1
            continue
        accuracy = _accuracy(config, data, trial_seed(arm.config, trial.number))
        curve.append(accuracy or 0.0)
        study.tell(trial, accuracy, state=TrialState.FAIL if accuracy is None else None)
    best = arm.config.space.decode(study.best_params)
    return {
        "curve": curve,
        "over": over,
        "num_params": best.architecture.num_params(),
        "again": [_accuracy(best, data, derive_seed(arm.config.seed, seed, 2)) for seed in AGAIN],
    }


def _accuracy(config: TrialConfig, data: Split, seed: int) -> float | None:
    """On validation after the last epoch; None where the training diverged."""
    network, compute_mode = build(config.architecture, seed), select_compute_mode(data.train.images.device)
    try:
        *_, last = fit(network, data.train, data.val, config.training, seed=seed, compute_mode=compute_mode)
    except Diverged:
        return None
    return last.val_accuracy


def report(out: Path) -> None:
    """Print what every arm found, over its seeds."""
    lines = read(out)
    typer.echo(
        f"Budget {BUDGET:,}, {TRIALS} trials of {EPOCHS} epochs on {TRAIN_IMAGES:,} images, "
        f"{VAL_IMAGES:,} validation images.\n"
    )
    typer.echo("| search | seeds | best network, trained again, mean (sd) | best of 10 | of 30 | median | "
               "over the budget |\n|---|--:|--:|--:|--:|--:|--:|")  # fmt: skip
    for name in arms(0):
        found = [line for line in lines if line["arm"] == name]
        if not found:
            continue
        again = [100 * mean(accuracy or 0.0 for accuracy in line["again"]) for line in found]
        curves = [sorted(line["curve"]) for line in found]
        typer.echo(
            f"| {name} | {len(found)} | {mean(again):.3f} ({stdev(again) if len(again) > 1 else math.nan:.3f}) | "
            f"{100 * mean(max(line['curve'][:10]) for line in found):.2f} | "
            f"{100 * mean(curve[-1] for curve in curves):.2f} | "
            f"{100 * mean(curve[len(curve) // 2] for curve in curves):.2f} | "
            f"{mean(line['over'] for line in found):.0f} |"
        )


if __name__ == "__main__":
    verbs(train, report)
