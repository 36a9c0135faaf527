"""A study as people write it by hand: plain TPE, the seeds' loop, a metric logged at every step."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import optuna

from experiments.recipe import Recipe
from mnist_search.bench import reference
from mnist_search.bench.handwritten_loop import handwritten_loop
from mnist_search.bench.images import images
from mnist_search.data.dataset import Digits
from mnist_search.training.model import build, count

WIDTHS = tuple(f"width_{i}" for i in range(1, 6))


def handwritten_study(
    data_dir: Path, device: str, storage: str, tracking: str, train_images: int, trials: int = 1
) -> float:
    """Images per second over ``trials`` of one epoch, after one trial that warms up.

    Budget violations are pruned after the network was built and counted, as is usual; here the
    reference is enqueued, so that the work is that of our own trials.
    """
    import mlflow  # heavy, and only here

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    mlflow.set_tracking_uri(tracking)
    mlflow.set_experiment("plain")
    train = images(data_dir, "cpu").train
    few = train[:train_images]
    study = optuna.create_study(storage=storage, direction="minimize")
    for _ in range(trials + 1):
        study.enqueue_trial({name: reference.PARAMS[name] for name in WIDTHS})

    def run_search_trial(trial: optuna.Trial) -> float:
        widths = {name: trial.suggest_int(name, 4, 30) for name in WIDTHS}
        recipe = reference.recipe(**widths)
        if count(build(recipe.architecture, 0)) > reference.BUDGET:
            raise optuna.TrialPruned
        return _logged_epoch(recipe, few, device)

    study.optimize(run_search_trial, n_trials=1)
    started = time.perf_counter()
    study.optimize(run_search_trial, n_trials=trials)
    return train_images * trials / (time.perf_counter() - started)


def _logged_epoch(recipe: Recipe, train: Digits, device: str) -> float:
    import mlflow  # see above

    losses: list[float] = []

    def log(loss: float, _: float) -> None:
        losses.append(loss)
        mlflow.log_metric("train_loss", loss, step=len(losses))

    with mlflow.start_run():
        for _ in handwritten_loop(recipe, train, 0, log, device):
            pass
    return losses[-1]
