"""A study as written by hand: plain TPE, the handwritten loop, one MLflow metric per step."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import mlflow
import optuna

from experiments.recipe import Recipe
from mnist_search.bench import reference
from mnist_search.bench.handwritten_loop import handwritten_loop
from mnist_search.data.dataset import Digits
from mnist_search.training.model import build, count

WIDTHS = tuple(f"width_{i}" for i in range(1, 6))


def handwritten_study(
    data_dir: Path, device: str, storage: str, tracking_uri: str, train_images: int, trials: int = 1
) -> float:
    """Images per second of ``trials`` trials of one epoch, after one trial for warm-up.

    Networks over the budget are pruned after they were built and counted, as is usual. The
    reference is enqueued, so that the timed trials train the same network as the project's.
    """
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_experiment("handwritten")
    train = reference.cached_split(data_dir, "cpu").train[:train_images]
    study = optuna.create_study(storage=storage, direction="minimize")
    for _ in range(trials + 1):
        study.enqueue_trial({name: reference.PARAMS[name] for name in WIDTHS})

    def objective(trial: optuna.Trial) -> float:
        recipe = reference.recipe(**{name: trial.suggest_int(name, 4, 30) for name in WIDTHS})
        if count(build(recipe.architecture, 0)) > reference.BUDGET:
            raise optuna.TrialPruned
        return _train_one_epoch(recipe, train, device)

    study.optimize(objective, n_trials=1)
    started = time.perf_counter()
    study.optimize(objective, n_trials=trials)
    return train_images * trials / (time.perf_counter() - started)


def _train_one_epoch(recipe: Recipe, train: Digits, device: str) -> float:
    losses: list[float] = []

    def log(loss: float, _: float) -> None:
        losses.append(loss)
        mlflow.log_metric("train_loss", loss, step=len(losses))

    with mlflow.start_run():
        for _ in handwritten_loop(recipe, train, 0, log, device):
            pass
    return losses[-1]
