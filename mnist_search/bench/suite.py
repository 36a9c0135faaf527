"""The benchmark: every measurement in order."""

from collections.abc import Iterator
from pathlib import Path

import optuna
import torch
from mlflow import MlflowClient

from experiments import BASELINES
from mnist_search.bench import overhead, reference, studies
from mnist_search.bench.measurement import FULL_ON_A_GPU, QUICK, Result, Workload, start_processes
from mnist_search.bench.throughput import LoopBenchmark
from mnist_search.data import mnist
from mnist_search.process_env import usable_cores
from mnist_search.tracking.runs import raise_log_levels
from mnist_search.training.device import describe_device, resolve_device


def measure(data_dir: Path | None, device_name: str, folder: Path, *, quick: bool) -> Iterator[Result]:
    """Run every measurement, with stores in an empty folder; yields each result when it is available."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    device, data_dir = resolve_device(device_name).type, mnist.resolve_data_dir(data_dir).absolute()
    changes = QUICK if quick else FULL_ON_A_GPU if device == "cuda" else {}
    work = Workload(data_dir=data_dir, device=device, **changes)
    for function in (overhead.budget_count, overhead.suggestion, overhead.help_time):
        yield function(work.rounds)
    reference.cached_split(data_dir, "cpu")  # reports unreadable files before processes read them
    with (
        start_processes(work.processes, data_dir, device, one_thread=True) as project,
        start_processes(1, data_dir, "cpu", one_thread=False) as handwritten,
    ):
        raise_log_levels()
        # MLflow takes some seconds to create its database: while the processes start.
        MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments(max_results=1)
        loops = LoopBenchmark(work, project, handwritten)
        for recipe in BASELINES.values() if work.all_baselines else [BASELINES["seed-001"]]:
            yield from loops.compare(recipe)
        speed, *others = loops.measure_reference(reference.recipe())
        yield from (speed, *others)
        yield from overhead.sync_overhead(
            data_dir, folder, speed.median / (work.processes * work.trial_threads)
        )
        yield from studies.measure(work, folder, handwritten)


def busy_warning(load: float, cores: int) -> str | None:
    """Why the results may be wrong: other work runs on this machine. None at a low load average."""
    if load <= cores / 2:
        return None
    return (
        f"the machine is busy: a load average of {load:.1f} on {cores} cores before the first measurement; "
        "measure again when it is idle"
    )


def describe_machine(device_name: str) -> str:
    """Device, number of cores and version of torch."""
    device = describe_device(resolve_device(device_name))
    return f"device {device}, cores {usable_cores()}, torch {torch.__version__}"
