"""The overhead around training: counting parameters, proposing, starting, the sync with MLflow."""

import gc
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from timeit import repeat

import numpy as np
import optuna

from mnist_search.bench import reference
from mnist_search.bench.measurement import Result, result
from mnist_search.data.dataset import Split
from mnist_search.execution.trials import TrialContext, run_search_trial
from mnist_search.search.samplers import sampler_for_trial
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store
from mnist_search.storage.tracked import TrackedStudy
from mnist_search.tracking.config import make_tracking_config
from mnist_search.tracking.sync import StudySync
from mnist_search.training.device import ComputeMode

STORED_TRIALS = 500
EPOCHS = 15

seconds_of = partial(repeat, setup=gc.enable, number=1)  # of each call, with garbage collection


def budget_count(rounds: int) -> Result:
    """Microseconds to decode one random configuration and count its parameters."""
    budget = reference.study_config(epochs=EPOCHS).parameter_budget
    rng = np.random.RandomState(0)
    params = [budget.space.draw(rng) for _ in range(1000)]
    seconds = seconds_of(lambda: [budget.count(each) for each in params], repeat=rounds)
    return result("budget.count_us", "us", [1e6 * each / len(params) for each in seconds], "decode and count")


def suggestion(rounds: int) -> Result:
    """Milliseconds of a proposal within the budget, with 500 finished trials in the study."""
    study_config = reference.study_config(epochs=EPOCHS)
    rng = np.random.RandomState(0)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(STORED_TRIALS):
        study.tell(study.ask(study_config.space.distributions), rng.uniform(0.98, 0.995))
    study.ask()
    trial = study.trials[-1]

    def propose() -> None:
        sampler = sampler_for_trial(study_config, STORED_TRIALS)
        sampler.sample_relative(study, trial, sampler.infer_relative_search_space(study, trial))

    seconds = seconds_of(propose, repeat=5 * rounds)
    note = f"{study_config.sampler}, {STORED_TRIALS} trials in memory"
    return result("suggest.ms", "ms", [1000 * each for each in seconds], note)


def help_time(rounds: int) -> Result:
    """Seconds of ``mnist-search --help``."""
    command = [sys.executable, "-m", "mnist_search", "--help"]
    call = partial(subprocess.run, command, check=True, capture_output=True)
    return result("help.seconds", "s", seconds_of(call, repeat=rounds))


def sync_overhead(data_dir: Path, folder: Path, images_per_second: float) -> Iterator[Result]:
    """CPU time of the sync with MLflow for a complete trial whose model is kept, and its share of the trial.

    The seconds are measured on a trial with all epochs and few images, since they do not depend
    on the number of images. The training time follows from ``images_per_second`` of one process.
    """
    seconds = _sync_cpu_seconds(data_dir, folder)
    training = EPOCHS * 50_000 / images_per_second
    note = f"CPU time, {EPOCHS} epochs, figures, model"
    yield result("sync.cpu_seconds_per_trial", "s", [seconds], note)
    note = f"of a trial that trains for {training:.0f} s"
    yield result("sync.cpu_percent", "%", [100 * seconds / training], note)


def _sync_cpu_seconds(data_dir: Path, folder: Path) -> float:
    """CPU time of the sync of a second trial: the first one imports libraries and reads the images."""
    split = reference.cached_split(data_dir, "cpu")
    data = Split(split.train[:256], split.val[:256])
    store = Store.open_or_create(f"sqlite:///{folder}/sync.db")
    study = SearchStudy.open_or_create(store, "sync", reference.study_config(epochs=EPOCHS), 2)
    config = make_tracking_config(f"sqlite:///{folder}/mlflow.db", "bench")
    sync = StudySync(TrackedStudy(store, "sync"), config, data_dir, notify=lambda _text: None)
    started = 0.0
    for _ in range(2):
        study.study.enqueue_trial(reference.PARAMS)
        claim = study.claim()
        assert claim is not None
        report = partial(study.queue.report, claim)
        context = TrialContext(
            compute_mode=ComputeMode(),
            checkpoint=lambda: None,
            on_start=lambda *_: None,
            report=report,
            should_prune=lambda: False,
            store=lambda function: function(),
        )
        trial = run_search_trial(claim.trial, study.config, data, context)
        study.queue.finish(claim, trial.state, trial.values, safetensors=trial.safetensors, keep=2)
        started = time.process_time()
        sync.sync()
    return time.process_time() - started
