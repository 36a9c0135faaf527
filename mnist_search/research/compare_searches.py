"""Compare searches by the network that they find in the same number of trained epochs.

The default search, the same without templates, without scaling to the budget, random search
within the budget, and plain Optuna TPE, which prunes networks over the budget. Every trial trains
a short schedule to its end. The best network of a search is trained again with other seeds, and
the mean of these training runs is its score. Run one process per core.

    python -m mnist_search.research.compare_searches train FILE.jsonl --part 0 --parts 2
    python -m mnist_search.research.compare_searches report FILE.jsonl
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
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
from mnist_search.research import jsonl
from mnist_search.search.samplers import derive_seed, sampler_for_trial, trial_seed
from mnist_search.search.warm_start import known_templates
from mnist_search.training.device import resolve_device, select_compute_mode
from mnist_search.training.fit import Diverged, fit
from mnist_search.training.model import build
from search_space import SearchSpace, TrialConfig
from search_space.space import Params

BUDGET, EPOCHS, TRIALS, RUNS = 8000, 3, 30, 3
TRAIN_IMAGES, VAL_IMAGES = 10_000, 10_000
SCORE_SEEDS = (1, 2)
"""Seeds of the repeated training runs of the best network."""


@dataclass(frozen=True, slots=True)
class Search:
    """A search to compare.

    Attributes:
        make_sampler: the sampler of a trial, from the configuration and the trial's number.
        templates: params of the first trials.
    """

    config: StudyConfig
    make_sampler: Callable[[StudyConfig, int], BaseSampler] = sampler_for_trial
    templates: Sequence[Params] = ()


def searches(seed: int) -> dict[str, Search]:
    """The searches by name; the names are those in ``experiments/measured/searching.jsonl``."""
    default = StudyConfig(
        budget=BUDGET, space=SearchSpace.for_budget(BUDGET, epochs=EPOCHS), pruner="none", seed=seed,
        train_images=TRAIN_IMAGES, val_images=VAL_IMAGES,
    )  # fmt: skip
    not_filled = replace(default, fill=False)
    plain_tpe = TPESampler(seed=seed)
    return {
        "ours: known plans first, TPE, filled": Search(default, templates=known_templates(default)),
        "TPE, filled": Search(default),
        "TPE, not filled": Search(not_filled),
        "random within the budget, filled": Search(replace(default, sampler="random")),
        "plain TPE, prunes what is over": Search(not_filled, lambda *_: plain_tpe),
    }


def train(
    out: Path,
    part: jsonl.PartOption = 0,
    parts: jsonl.PartsOption = 1,
    data_dir: jsonl.DataOption = None,
    device: jsonl.DeviceOption = "auto",
) -> None:
    """Run one part of the searches; writes a JSON line per search."""
    jsonl.run_part(out, _tasks(data_dir, device), part, parts)


def _tasks(data_dir: Path | None, device: str) -> Iterator[jsonl.Task]:
    data = load_split(mnist.resolve_data_dir(data_dir), TRAIN_IMAGES, VAL_IMAGES, 0, resolve_device(device))
    for seed in range(RUNS):
        for name, variant in searches(seed).items():
            yield {"arm": name, "seed": seed}, partial(search, variant, data)


def search(variant: Search, data: Split, trials: int = TRIALS) -> dict[str, Any]:
    """Train ``trials`` proposals within the budget, then the best one again."""
    study = optuna.create_study(direction="maximize")
    for params in variant.templates:
        study.enqueue_trial(dict(params))
    curve: list[float] = []
    over = 0
    while len(curve) < trials:
        study.sampler = variant.make_sampler(variant.config, len(study.trials))
        trial = study.ask()
        config = variant.config.space.suggest(trial)
        if config.architecture.num_params() > BUDGET:
            study.tell(trial, state=TrialState.PRUNED)
            over += 1
            continue
        accuracy = final_accuracy(config, data, trial_seed(variant.config, trial.number))
        curve.append(accuracy or 0.0)
        study.tell(trial, accuracy, state=TrialState.FAIL if accuracy is None else None)
    best = variant.config.space.decode(study.best_params)
    return {
        "curve": curve,
        "over": over,
        "num_params": best.architecture.num_params(),
        "again": [
            final_accuracy(best, data, derive_seed(variant.config.seed, seed, 2)) for seed in SCORE_SEEDS
        ],
    }


def final_accuracy(config: TrialConfig, data: Split, seed: int) -> float | None:
    """Validation accuracy after the last epoch; None if training diverged."""
    network, compute_mode = build(config.architecture, seed), select_compute_mode(data.train.images.device)
    try:
        *_, last = fit(network, data.train, data.val, config.training, seed=seed, compute_mode=compute_mode)
    except Diverged:
        return None
    return last.val_accuracy


def report(out: Path) -> None:
    """Print the results of every search over its seeds."""
    lines = jsonl.read(out)
    typer.echo(
        f"Budget {BUDGET:,}, {TRIALS} trials of {EPOCHS} epochs on {TRAIN_IMAGES:,} images, "
        f"{VAL_IMAGES:,} validation images.\n"
    )
    typer.echo("| search | seeds | best network, trained again, mean (sd) | best of 10 | of 30 | median | "
               "over the budget |\n|---|--:|--:|--:|--:|--:|--:|")  # fmt: skip
    for name in searches(0):
        runs = [line for line in lines if line["arm"] == name]
        if not runs:
            continue
        scores = [100 * mean(accuracy or 0.0 for accuracy in run["again"]) for run in runs]
        curves = [sorted(run["curve"]) for run in runs]
        typer.echo(
            f"| {name} | {len(runs)} | {mean(scores):.3f} ({stdev(scores) if len(scores) > 1 else math.nan:.3f}) | "
            f"{100 * mean(max(run['curve'][:10]) for run in runs):.2f} | "
            f"{100 * mean(curve[-1] for curve in curves):.2f} | "
            f"{100 * mean(curve[len(curve) // 2] for curve in curves):.2f} | "
            f"{mean(run['over'] for run in runs):.0f} |"
        )


if __name__ == "__main__":
    jsonl.run_commands(train, report)
