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

from experiments import Experiment
from mnist_search.bench import reference
from mnist_search.bench.images import images
from mnist_search.bench.rows import Row, row
from mnist_search.objective import Setup, objective
from mnist_search.study.ledger import Ledger
from mnist_search.study.mirror import Mirror
from mnist_search.study.samplers import sampler_for_trial
from mnist_search.study.store import Store
from mnist_search.tracking import Tracker
from mnist_search.tracking.mlflow_tracker import MlflowTracker
from mnist_search.tracking.place import place_of
from mnist_search.tracking.prepare import parent_of, prepare
from mnist_search.tracking.reach import quieten
from mnist_search.training.device import CPU
from mnist_search.training.digits import Split
from mnist_search.training.step import Way

STORED_TRIALS = 500
EPOCHS = 15

FEW = 256
"""Images of the trial whose tracker is timed."""


def budget_count(rounds: int) -> Row:
    """Microseconds to decode and count one random configuration."""
    budget = reference.experiment(EPOCHS, 50_000, 10_000).parameter_budget
    rng = np.random.RandomState(0)
    genes = [budget.space.draw(rng) for _ in range(1000)]

    def count() -> None:
        for each in genes:
            budget.count(each)

    counted = [1e6 * _seconds(count) / len(genes) for _ in range(rounds)]
    return row("budget.count_us", "us", counted, "decode and count")


def suggestion(rounds: int) -> Row:
    """Milliseconds of a proposal that fits, with 500 finished trials to learn from."""
    experiment = reference.experiment(EPOCHS, 50_000, 10_000)
    study = optuna.create_study(direction="maximize")
    study.add_trials(_finished_trials(experiment))
    study.ask()
    (trial,) = study.get_trials(states=(TrialState.RUNNING,))

    def propose() -> None:
        sampler = sampler_for_trial(experiment, STORED_TRIALS)
        sampler.sample_relative(study, trial, sampler.infer_relative_search_space(study, trial))

    taken = [1000 * _seconds(propose) for _ in range(5 * rounds)]
    return row("suggest.ms", "ms", taken, f"{experiment.sampler}, {STORED_TRIALS} trials in memory")


def _finished_trials(experiment: Experiment) -> Iterator[optuna.trial.FrozenTrial]:
    rng = np.random.RandomState(0)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(STORED_TRIALS):
        trial = study.ask(experiment.space.distributions)
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
    definition = reference.experiment(EPOCHS, 50_000, 10_000)
    store = Store.open_or_create(f"sqlite:///{folder}/logging.db")
    ledger = Ledger.open_or_create(store, "logging", definition, 1)
    ledger.study.enqueue_trial(reference.GENES)
    place = prepare(place_of(f"sqlite:///{folder}/mlflow.db", "bench"), parent_of(ledger.facts()), _ignore)
    assert place is not None  # a local file is always there
    timed = Timed(MlflowTracker(place, "logging", _ignore))
    tracker = cast("Tracker", timed)
    claim = ledger.claim()
    assert claim is not None
    outcome = objective(
        claim.trial,
        Setup(
            experiment=definition, data=data, device=CPU, way=Way(), tracker=tracker,
            seed_of=lambda _: 0, checkpoint=lambda: None,
            on_begin=lambda _number, _count, run_id: ledger.remember_mirror(claim.trial_id, str(run_id)),
            on_epoch=lambda _number, _record: None,
        ),
    )  # fmt: skip
    ledger.settle(
        claim, outcome.state, outcome.value, left={"curve": outcome.curve}, trained=outcome.trained, keep=1
    )
    outcome.run.end(outcome.ending)
    Mirror(ledger, tracker, lambda: data.val).models()
    tracker.update_study(ledger.facts())
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
