"""The overhead around training: counting parameters, proposing, starting, logging."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import optuna
from mlflow import MlflowClient
from optuna.trial import TrialState, create_trial

from experiments import StudyConfig
from mnist_search.bench import reference
from mnist_search.bench.result import Result, result
from mnist_search.data.dataset import Split
from mnist_search.execution.trials import TrialContext, run_search_trial
from mnist_search.search.samplers import sampler_for_trial
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store
from mnist_search.storage.tracked import TrackedStudy
from mnist_search.tracking.config import make_tracking_config
from mnist_search.tracking.runs import raise_log_levels
from mnist_search.tracking.sync import StudySync
from mnist_search.training.device import ComputeMode

STORED_TRIALS = 500
EPOCHS = 15

LOGGED_TRIAL_IMAGES = 256
"""Images of the trial whose sync is timed."""


def budget_count(rounds: int) -> Result:
    """Microseconds to decode one random configuration and count its parameters."""
    budget = reference.study_config(EPOCHS, 50_000, 10_000).parameter_budget
    rng = np.random.RandomState(0)
    params = [budget.space.draw(rng) for _ in range(1000)]

    def count() -> None:
        for each in params:
            budget.count(each)

    microseconds = [1e6 * _seconds(count) / len(params) for _ in range(rounds)]
    return result("budget.count_us", "us", microseconds, "decode and count")


def suggestion(rounds: int) -> Result:
    """Milliseconds of a proposal within the budget, with 500 finished trials in the study."""
    study_config = reference.study_config(EPOCHS, 50_000, 10_000)
    study = optuna.create_study(direction="maximize")
    study.add_trials(_finished_trials(study_config))
    study.ask()
    (trial,) = study.get_trials(states=(TrialState.RUNNING,))

    def propose() -> None:
        sampler = sampler_for_trial(study_config, STORED_TRIALS)
        sampler.sample_relative(study, trial, sampler.infer_relative_search_space(study, trial))

    milliseconds = [1000 * _seconds(propose) for _ in range(5 * rounds)]
    note = f"{study_config.sampler}, {STORED_TRIALS} trials in memory"
    return result("suggest.ms", "ms", milliseconds, note)


def _finished_trials(study_config: StudyConfig) -> Iterator[optuna.trial.FrozenTrial]:
    rng = np.random.RandomState(0)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(STORED_TRIALS):
        trial = study.ask(study_config.space.distributions)
        yield create_trial(
            params=trial.params, distributions=trial.distributions, value=rng.uniform(0.98, 0.995)
        )


def help_time(rounds: int) -> Result:
    """Seconds of ``mnist-search --help``."""
    command = [sys.executable, "-m", "mnist_search", "--help"]

    def call() -> None:
        subprocess.run(command, check=True, capture_output=True)

    return result("help.seconds", "s", [_seconds(call) for _ in range(rounds)])


def create_mlflow_database(folder: Path) -> None:
    """Create ``mlflow.db``, which takes MLflow some seconds, before measurements that use it."""
    raise_log_levels()
    MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments(max_results=1)


def logging_overhead(data_dir: Path, folder: Path, images_per_second: float) -> Iterator[Result]:
    """CPU time of the sync process for a complete trial whose model is kept, and its share of the trial.

    The seconds are measured on a trial with all epochs and few images, since they do not depend
    on the number of images. The training time follows from ``images_per_second`` of one process.
    """
    logging = _sync_seconds(data_dir, folder)
    training = EPOCHS * 50_000 / images_per_second
    percent = 100 * logging / (logging + training)
    yield result("logging.seconds_per_trial", "s", [logging], f"run, {EPOCHS} epochs, figures, model")
    yield result("logging.overhead_percent", "%", [percent], f"of a trial that trains for {training:.0f} s")


def _sync_seconds(data_dir: Path, folder: Path) -> float:
    split = reference.cached_split(data_dir, "cpu")
    data = Split(split.train[:LOGGED_TRIAL_IMAGES], split.val[:LOGGED_TRIAL_IMAGES])
    study_config = reference.study_config(EPOCHS, 50_000, 10_000)
    store = Store.open_or_create(f"sqlite:///{folder}/logging.db")
    search_study = SearchStudy.open_or_create(store, "logging", study_config, 1)
    search_study.study.enqueue_trial(reference.PARAMS)
    config = make_tracking_config(f"sqlite:///{folder}/mlflow.db", "bench")
    sync = StudySync(TrackedStudy(store, "logging"), config, data_dir, notify=lambda _text: None)
    sync.sync()
    queue, claim = search_study.queue, search_study.claim()
    assert claim is not None
    context = TrialContext(
        compute_mode=ComputeMode(),
        checkpoint=lambda: None,
        on_start=lambda _num_params, _epochs: None,
        report=lambda metrics: queue.report(claim, metrics),
    )
    trial = run_search_trial(claim.trial, study_config, data, context)
    queue.finish(claim, trial.state, trial.values, safetensors=trial.safetensors, keep=1)
    return _seconds(sync.sync)


def _seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started
