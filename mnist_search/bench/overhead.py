"""What happens between trainings: counting, proposing, starting, logging."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
from optuna.trial import TrialState, create_trial

from experiments import StudyConfig
from mnist_search.bench import reference
from mnist_search.bench.images import images
from mnist_search.bench.result import Row, row
from mnist_search.data.dataset import Split
from mnist_search.execution.sync import TrackerSync
from mnist_search.execution.trials import TrialContext, run_search_trial
from mnist_search.search.samplers import sampler_for_trial
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store
from mnist_search.tracking.base import Tracker
from mnist_search.tracking.circuit_breaker import quieten
from mnist_search.tracking.config import make_tracking_config
from mnist_search.tracking.mlflow_tracker import MlflowTracker
from mnist_search.tracking.setup import parent_of, prepare
from mnist_search.training.device import CPU, ComputeMode

STORED_TRIALS = 500
EPOCHS = 15

FEW = 256
"""Images of the trial whose tracker is timed."""


def budget_count(rounds: int) -> Row:
    """Microseconds to decode and count one random configuration."""
    budget = reference.study_config(EPOCHS, 50_000, 10_000).parameter_budget
    rng = np.random.RandomState(0)
    params = [budget.space.draw(rng) for _ in range(1000)]

    def count() -> None:
        for each in params:
            budget.count(each)

    counted = [1e6 * _seconds(count) / len(params) for _ in range(rounds)]
    return row("budget.count_us", "us", counted, "decode and count")


def suggestion(rounds: int) -> Row:
    """Milliseconds of a proposal that fits, with 500 finished trials to learn from."""
    study_config = reference.study_config(EPOCHS, 50_000, 10_000)
    study = optuna.create_study(direction="maximize")
    study.add_trials(_finished_trials(study_config))
    study.ask()
    (trial,) = study.get_trials(states=(TrialState.RUNNING,))

    def propose() -> None:
        sampler = sampler_for_trial(study_config, STORED_TRIALS)
        sampler.sample_relative(study, trial, sampler.infer_relative_search_space(study, trial))

    taken = [1000 * _seconds(propose) for _ in range(5 * rounds)]
    return row("suggest.ms", "ms", taken, f"{study_config.sampler}, {STORED_TRIALS} trials in memory")


def _finished_trials(study_config: StudyConfig) -> Iterator[optuna.trial.FrozenTrial]:
    rng = np.random.RandomState(0)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(STORED_TRIALS):
        trial = study.ask(study_config.space.distributions)
        yield create_trial(
            params=trial.params, distributions=trial.distributions, value=rng.uniform(0.98, 0.995)
        )


def help_time(rounds: int) -> Row:
    """Seconds until ``mnist-search --help`` has answered."""
    command = [sys.executable, "-m", "mnist_search", "--help"]
    taken = [
        _seconds(lambda: subprocess.run(command, check=True, capture_output=True)) for _ in range(rounds)
    ]
    return row("help.seconds", "s", taken)


def make_mlflow_store(folder: Path) -> None:
    """Make ``mlflow.db``, which takes MLflow some seconds, before anything that uses it is timed."""
    from mlflow import MlflowClient  # heavy, and only here

    quieten()
    MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments(max_results=1)


def logging_tax(data_dir: Path, folder: Path, samples_per_second: float) -> Iterator[Row]:
    """Share of a full trial that its tracker takes, the model of a kept trial included.

    The tracker's seconds are measured on a trial of all epochs but few images, since they do
    not depend on the images; the training's are taken from its speed.
    """
    spent = _tracker_seconds(data_dir, folder)
    training = EPOCHS * 50_000 / samples_per_second
    yield row("logging.seconds_per_trial", "s", [spent], f"run, {EPOCHS} epochs, figures, model")
    percent = 100 * spent / (spent + training)
    yield row("logging.tax_percent", "%", [percent], f"of a trial that trains for {training:.0f} s")


def _tracker_seconds(data_dir: Path, folder: Path) -> float:
    everything = images(data_dir, "cpu")
    data = Split(everything.train[:FEW], everything.val[:FEW])
    definition = reference.study_config(EPOCHS, 50_000, 10_000)
    store = Store.open_or_create(f"sqlite:///{folder}/logging.db")
    search_study = SearchStudy.open_or_create(store, "logging", definition, 1)
    search_study.study.enqueue_trial(reference.PARAMS)
    tracking_config = prepare(
        make_tracking_config(f"sqlite:///{folder}/mlflow.db", "bench"),
        parent_of(search_study.record()),
        _ignore,
    )
    assert tracking_config is not None  # a local file is always there
    timed = Timed(MlflowTracker(tracking_config, "logging", _ignore))
    tracker = cast("Tracker", timed)
    claim = search_study.claim()
    assert claim is not None
    outcome = run_search_trial(
        claim.trial,
        TrialContext(
            config=definition, data=data, device=CPU, compute_mode=ComputeMode(), tracker=tracker,
            seed_of=lambda _: 0, checkpoint=lambda: None,
            on_begin=lambda _number, _count, run_id: search_study.queue.record_run(claim.trial_id, str(run_id)),
            on_epoch=lambda _number, _capture: None,
        ),
    )  # fmt: skip
    search_study.queue.finish(
        claim,
        outcome.state,
        outcome.value,
        attributes={"curve": outcome.curve},
        safetensors=outcome.trained,
        keep=1,
    )
    outcome.run.end(outcome.ending)
    TrackerSync(search_study, tracker, lambda: data.val).models()
    tracker.update_study(search_study.record())
    return timed.seconds + cast("Timed", outcome.run).seconds


class Timed:
    """Whatever it wraps, with a clock on every call; what a call gives may be timed as well."""

    def __init__(self, wrapped: object) -> None:
        self._wrapped = wrapped
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._wrapped, name)
        if not callable(value):
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                given = value(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - started
            return Timed(given) if name == "start_trial" else given

        return call


def _ignore(_: str) -> None:
    """Nobody reads the warnings of a benchmark's tracker."""


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
