"""A study as written by hand: plain TPE, the handwritten loop, one MLflow metric per step."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import mlflow
import optuna

from mnist_search.bench import reference
from mnist_search.bench.handwritten_loop import handwritten_loop
from mnist_search.training.model import build, count

WIDTHS = tuple(f"width_{i}" for i in range(1, 6))


def handwritten_study(
    data_dir: Path, device: str, storage: str, tracking_uri: str, train_images: int
) -> float:
    """Images per second of a trial of one epoch, after one trial for warm-up.

    Networks over the budget are pruned after they were built and counted, as is usual. The
    reference is enqueued, so that both trials train the same network as the project's.
    """
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_experiment("handwritten")
    train = reference.cached_split(data_dir, "cpu").train[:train_images]
    study = optuna.create_study(storage=storage, direction="minimize")

    def objective(trial: optuna.Trial) -> float:
        recipe = reference.recipe(**{name: trial.suggest_int(name, 4, 30) for name in WIDTHS})
        if count(build(recipe.architecture, 0)) > reference.BUDGET:
            raise optuna.TrialPruned
        with mlflow.start_run():
            for step, (_, loss, _) in enumerate(handwritten_loop(recipe, train, 0, device), 1):
                mlflow.log_metric("train_loss", loss, step=step)
        return loss

    for _ in range(2):
        study.enqueue_trial({name: reference.PARAMS[name] for name in WIDTHS})
        started = time.perf_counter()
        study.optimize(objective, n_trials=1)
    return train_images / (time.perf_counter() - started)
