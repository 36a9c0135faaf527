"""How well an early look at a training foretells its end; the evidence behind the default pruner.

Random networks that fill the budget are trained to their end with two seeds. On the way they are
judged after every epoch, early also with averaged weights; and each is trained again on short
schedules of its own that end at zero. Run one part a core, as often as it takes: what is in the
file already is not trained again.

    python -m mnist_search.research.fidelity train FILE.jsonl --part 0 --parts 2
    python -m mnist_search.research.fidelity report FILE.jsonl
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import optuna
import typer
from scipy.stats import spearmanr

from experiments import StudyConfig
from mnist_search.data import mnist
from mnist_search.data.dataset import Split, load_split
from mnist_search.research.jsonl import DataOption, DeviceOption, PartOption, PartsOption, append, read, verbs
from mnist_search.search.samplers import derive_seed, sampler_for_trial
from mnist_search.training.device import resolve_device, select_compute_mode, use_one_thread
from mnist_search.training.ema import ExponentialMovingAverage
from mnist_search.training.fit import STEPS_BETWEEN_CHECKS, Diverged, evaluate, fit
from mnist_search.training.model import build
from search_space import SearchSpace

BUDGET, EPOCHS, BASELINES = 8000, 15, (0, 1)
LOOKS = (1, 2, 3, 5)
"""Epochs after which averaged weights are judged as well."""

SHORT = (1, 2, 3)
"""Epochs of the short schedules."""

EMA_DECAY = 0.99
"""Per step; the average is taken every 25 steps with a decay to match."""


def train(
    out: Path,
    configurations: Annotated[int, typer.Option(min=1)] = 40,
    train_images: Annotated[int, typer.Option(min=1000, help="The same for a whole file.")] = 50_000,
    part: PartOption = 0,
    parts: PartsOption = 1,
    data_dir: DataOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Train this part of the configurations, a line of JSON for each training."""
    use_one_thread()
    data = load_split(mnist.find(data_dir), train_images, 10_000, 0, resolve_device(device))
    known = {(line["configuration"], line["kind"], line["seed"]) for line in read(out)}
    for number, params in enumerate(_random_params(configurations)):
        if number % parts != part:
            continue
        for kind, epochs, seed in _trainings():
            if (number, kind, seed) not in known:
                line = {"configuration": number, "kind": kind, "seed": seed, "params": params}
                line |= _final_training(params, epochs, seed, data)
                append(out, line)


def _trainings() -> Iterator[tuple[str, int, int]]:
    yield from (("full", EPOCHS, seed) for seed in BASELINES)
    yield from ((f"short-{epochs}", epochs, BASELINES[0]) for epochs in SHORT)


def _random_params(configurations: int) -> Iterator[dict[str, Any]]:
    """Random proposals as a study makes them, filled and within the budget."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study_config = StudyConfig(budget=BUDGET, space=SearchSpace.for_budget(BUDGET), sampler="random")
    study = optuna.create_study()
    for number in range(configurations):
        study.sampler = sampler_for_trial(study_config, number)
        trial = study.ask()
        study_config.space.suggest(trial)
        yield trial.params


def _final_training(params: dict[str, Any], epochs: int, seed: int, data: Split) -> dict[str, Any]:
    device = data.train.images.device
    compute_mode = select_compute_mode(device)
    config = SearchSpace.for_budget(BUDGET, epochs=epochs).decode(params)
    network_seed = derive_seed(seed, 7)
    network = build(config.architecture, network_seed).to(device).to(memory_format=compute_mode.memory_format)
    average = ExponentialMovingAverage(network, EMA_DECAY**STEPS_BETWEEN_CHECKS)
    curve: list[dict[str, float | None]] = []
    averaged: dict[int, dict[str, float]] = {}
    diverged = None
    try:
        for record in fit(
            network, data.train, data.val, config.training, seed=network_seed, compute_mode=compute_mode,
            checkpoint=lambda: average.update(network),
        ):  # fmt: skip
            curve.append(
                {"val_accuracy": record.val_accuracy, "val_loss": record.val_loss, "seconds": record.seconds}
            )
            if record.epoch in LOOKS:
                judged = evaluate(average.module, data.val)
                averaged[record.epoch] = {"val_accuracy": judged.accuracy, "val_loss": judged.loss}
    except Diverged as error:
        diverged = str(error)
    return {
        "num_params": config.architecture.num_params(),
        "curve": curve,
        "averaged": averaged,
        "diverged": diverged,
    }


def report(out: Path) -> None:
    """Print the rank correlation of every early reading with the accuracy at the end."""
    done = complete(read(out))
    ends = [
        {n: kinds["full"][seed]["curve"][-1]["val_accuracy"] for n, kinds in done.items()}
        for seed in BASELINES
    ]
    mean = {n: sum(end[n] for end in ends) / len(ends) for n in done}
    better = sorted(mean, key=mean.__getitem__)[len(mean) // 2 :]
    typer.echo(
        f"{len(done)} configurations, {EPOCHS} epochs. Spearman's rho of a reading in the first seed's "
        f"training with the end: the mean of {len(BASELINES)} seeds, the same among the better half, and the "
        "second seed alone."
    )
    typer.echo("| reading | epochs | mean | better half | second seed |\n|---|--:|--:|--:|--:|")
    for name, cost, reading in _readings(done):
        rhos = (
            _rho(reading, mean, list(done)),
            _rho(reading, mean, better),
            _rho(reading, ends[1], list(done)),
        )
        typer.echo(f"| {name} | {cost} | " + " | ".join(f"{rho:.2f}" for rho in rhos) + " |")


def _rho(readings: dict[int, float], final: dict[int, float], among: list[int]) -> float:
    found = spearmanr([readings[n] for n in among], [final[n] for n in among])
    return float(found.statistic)


def complete(lines: list[dict[str, Any]]) -> dict[int, dict[str, list[dict[str, Any]]]]:
    """Trainings by configuration and kind, of configurations that have them all and never diverged."""
    done: dict[int, dict[str, list[dict[str, Any]]]] = {}
    for line in lines:
        done.setdefault(line["configuration"], {}).setdefault(line["kind"], []).append(line)
    wanted = len(list(_trainings()))
    return {
        number: kinds
        for number, kinds in sorted(done.items())
        if sum(map(len, kinds.values())) == wanted
        and not any(line["diverged"] for lines_of in kinds.values() for line in lines_of)
    }


def _readings(
    done: dict[int, dict[str, list[dict[str, Any]]]],
) -> Iterator[tuple[str, int, dict[int, float]]]:
    """Every early reading of the first seed's training: name, epochs, value by configuration."""
    for look in LOOKS:
        for metric, sign in (("val_accuracy", 1), ("val_loss", -1)):
            raw = {n: sign * kinds["full"][0]["curve"][look - 1][metric] for n, kinds in done.items()}
            yield f"{metric}, raw, after epoch {look}", look, raw
            mean = {n: sign * kinds["full"][0]["averaged"][str(look)][metric] for n, kinds in done.items()}
            yield f"{metric}, averaged, after epoch {look}", look, mean
    for epochs in SHORT:
        for metric, sign in (("val_accuracy", 1), ("val_loss", -1)):
            short = {n: sign * kinds[f"short-{epochs}"][0]["curve"][-1][metric] for n, kinds in done.items()}
            yield f"{metric}, whole schedule of {epochs}", epochs, short
    end = {n: kinds["full"][0]["curve"][-1]["val_accuracy"] for n, kinds in done.items()}
    yield "val_accuracy, at the end", EPOCHS, end


if __name__ == "__main__":
    verbs(train, report)
