"""Measure how well early metrics predict the final accuracy; the evidence behind the default pruner.

Random networks, scaled to the budget, are trained with two seeds. They are evaluated after every
epoch, and after early epochs also with averaged weights. Each is trained again on complete short
schedules, and with the restarts of screening. Run one process per core; results in the file are not computed again.

    python -m mnist_search.research.fidelity train FILE.jsonl --part 0 --parts 2
    python -m mnist_search.research.fidelity report FILE.jsonl
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import optuna
import typer
from scipy.stats import spearmanr

from experiments import StudyConfig
from experiments.study_config import rungs
from mnist_search.data import mnist
from mnist_search.data.dataset import Split, load_split
from mnist_search.research import jsonl
from mnist_search.search.samplers import derive_seed, sampler_for_trial
from mnist_search.training.device import resolve_device, select_compute_mode
from mnist_search.training.evaluate import evaluate
from mnist_search.training.fit import STEPS_BETWEEN_CHECKS, Diverged, fit
from mnist_search.training.model import build
from mnist_search.training.step import ExponentialMovingAverage
from search_space import SearchSpace
from search_space.space import Params

BUDGET, EPOCHS, SEEDS = 8000, 15, (0, 1)

EVALUATED_EPOCHS = (1, 2, 3, 5)
"""Epochs after which averaged weights are evaluated."""

SHORT_SCHEDULES = (1, 2, 3)
"""Epochs of the short schedules."""

RESTARTED = "restarts"
"""Training with the restarts of screening; an older file lacks it."""

EMA_DECAY = 0.99
"""Per step; the average is updated every 25 steps with a decay to match."""

SIGNS = {"val_accuracy": 1, "val_loss": -1}


def train(
    out: Path,
    configurations: Annotated[int, typer.Option(min=1)] = 40,
    train_images: Annotated[int, typer.Option(min=1000, help="One number per file.")] = 50_000,
    part: jsonl.PartOption = 0,
    parts: jsonl.PartsOption = 1,
    data_dir: jsonl.DataOption = None,
    device: jsonl.DeviceOption = "auto",
) -> None:
    """Train one part of the configurations; writes a JSON line per training."""
    jsonl.run_part(out, _tasks(configurations, train_images, data_dir, device), part, parts)


def _tasks(
    configurations: int, train_images: int, data_dir: Path | None, device: str
) -> Iterator[jsonl.Task]:
    data = load_split(mnist.resolve_data_dir(data_dir), train_images, 10_000, 0, resolve_device(device))
    for number, params in enumerate(_random_params(configurations)):
        for kind, epochs, seed in (*_trainings(), (RESTARTED, EPOCHS, SEEDS[0])):
            key = {"configuration": number, "kind": kind, "seed": seed}
            yield key, partial(_train, params, epochs, seed, data, restarts=kind == RESTARTED)


def _trainings() -> Iterator[tuple[str, int, int]]:
    yield from (("full", EPOCHS, seed) for seed in SEEDS)
    yield from ((f"short-{epochs}", epochs, SEEDS[0]) for epochs in SHORT_SCHEDULES)


def _random_params(configurations: int) -> Iterator[Params]:
    """Random proposals of a study, scaled to the budget."""
    study_config = StudyConfig(budget=BUDGET, space=SearchSpace.for_budget(BUDGET), sampler="random")
    study = optuna.create_study()
    for number in range(configurations):
        study.sampler = sampler_for_trial(study_config, number)
        trial = study.ask()
        study_config.space.suggest(trial)
        yield trial.params


def _train(params: Params, epochs: int, seed: int, data: Split, *, restarts: bool) -> dict[str, Any]:
    device = data.train.images.device
    compute_mode = select_compute_mode(device)
    config = SearchSpace.for_budget(BUDGET, epochs=epochs).decode(params)
    training = replace(config.training, restarts=rungs(epochs)[:-1] if restarts else ())
    training_seed = derive_seed(seed, 7)
    network = build(config.architecture, training_seed).to(device)
    network = network.to(memory_format=compute_mode.memory_format)
    average = ExponentialMovingAverage(network, EMA_DECAY**STEPS_BETWEEN_CHECKS)
    curve: list[dict[str, float | None]] = []
    averaged: dict[int, dict[str, float]] = {}
    diverged = None
    try:
        for epoch in fit(
            network, data.train, data.val, training, seed=training_seed, compute_mode=compute_mode,
            checkpoint=lambda: average.update(network),
        ):  # fmt: skip
            curve.append(
                {"val_accuracy": epoch.val_accuracy, "val_loss": epoch.val_loss, "seconds": epoch.seconds}
            )
            if epoch.epoch in EVALUATED_EPOCHS:
                evaluation = evaluate(average.module, data.val)
                averaged[epoch.epoch] = {"val_accuracy": evaluation.accuracy, "val_loss": evaluation.loss}
    except Diverged as error:
        diverged = str(error)
    return {
        "genes": params,  # the key of the files in experiments/measured
        "num_params": config.architecture.num_params(),
        "curve": curve,
        "averaged": averaged,
        "diverged": diverged,
    }


def report(out: Path) -> None:
    """Print the rank correlation of every early metric with the final accuracy."""
    trainings = complete(jsonl.read(out))
    numbers = list(trainings)
    final = [
        {n: kinds["full"][seed]["curve"][-1]["val_accuracy"] for n, kinds in trainings.items()}
        for seed in SEEDS
    ]
    mean = {n: sum(accuracy[n] for accuracy in final) / len(final) for n in numbers}
    better = sorted(mean, key=mean.__getitem__)[len(mean) // 2 :]
    typer.echo(
        f"{len(numbers)} configurations, {EPOCHS} epochs. Spearman's rho of a metric in the training of the "
        f"first seed with the final accuracy: mean of {len(SEEDS)} seeds, the same for the better half of the "
        "configurations, and the second seed."
    )
    typer.echo("| metric | epochs | mean | better half | second seed |\n|---|--:|--:|--:|--:|")
    for name, epochs, values in _early_metrics(trainings):
        rhos = (_rho(values, mean, numbers), _rho(values, mean, better), _rho(values, final[1], numbers))
        typer.echo(f"| {name} | {epochs} | " + " | ".join(f"{rho:.2f}" for rho in rhos) + " |")


def _rho(values: Mapping[int, float], final: Mapping[int, float], numbers: list[int]) -> float:
    return float(spearmanr([values[n] for n in numbers], [final[n] for n in numbers]).statistic)


def complete(lines: list[dict[str, Any]]) -> dict[int, dict[str, list[dict[str, Any]]]]:
    """Training runs by configuration and kind, without incomplete and diverged configurations."""
    trainings: dict[int, dict[str, list[dict[str, Any]]]] = {}
    for line in lines:
        trainings.setdefault(line["configuration"], {}).setdefault(line["kind"], []).append(line)
    required = len(list(_trainings()))
    return {
        number: kinds
        for number, kinds in sorted(trainings.items())
        if sum(len(lines) for kind, lines in kinds.items() if kind != RESTARTED) == required
        and not any(line["diverged"] for lines_of_kind in kinds.values() for line in lines_of_kind)
    }


def _early_metrics(
    trainings: Mapping[int, Mapping[str, list[dict[str, Any]]]],
) -> Iterator[tuple[str, int, dict[int, float]]]:
    """Every early metric of the first seed's training runs: name, epochs, value by configuration."""
    full = {n: kinds["full"][0] for n, kinds in trainings.items()}
    for epoch in EVALUATED_EPOCHS:
        for metric, sign in SIGNS.items():
            raw = {n: sign * training["curve"][epoch - 1][metric] for n, training in full.items()}
            yield f"{metric}, raw, after epoch {epoch}", epoch, raw
            averaged = {n: sign * training["averaged"][str(epoch)][metric] for n, training in full.items()}
            yield f"{metric}, averaged, after epoch {epoch}", epoch, averaged
    for epochs in SHORT_SCHEDULES:
        for metric, sign in SIGNS.items():
            short = {n: kinds[f"short-{epochs}"][0]["curve"][-1] for n, kinds in trainings.items()}
            values = {n: sign * end[metric] for n, end in short.items()}
            yield f"{metric}, complete schedule of {epochs}", epochs, values
    restarted = {n: kinds[RESTARTED][0]["curve"] for n, kinds in trainings.items() if RESTARTED in kinds}
    if len(restarted) == len(trainings):
        for epoch in rungs(EPOCHS):
            values = {n: curve[epoch - 1]["val_accuracy"] for n, curve in restarted.items()}
            yield "val_accuracy, with restarts", epoch, values
    final = {n: training["curve"][-1]["val_accuracy"] for n, training in full.items()}
    yield "val_accuracy, at the end", EPOCHS, final


if __name__ == "__main__":
    jsonl.run_commands(train, report)
