"""Finals: finalists of a study, and the seeds, trained with several seeds and judged on the test set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING

from experiments import BASELINES, Recipe
from experiments.defaults import TRAINING
from mnist_search.errors import NotFound, StudyConflict, UsageError
from mnist_search.execution.events import Message
from mnist_search.execution.final_worker import FinalWorkerConfig, main
from mnist_search.execution.run_study import device_and_jobs
from mnist_search.execution.supervisor import ProgressReporter, Stop, supervise
from mnist_search.records import FinalResult, FinalTask, StudyRecord
from mnist_search.search.stopping import StopConditions
from mnist_search.storage.database import Store
from mnist_search.storage.final_queue import FinalQueue, queue_names
from mnist_search.tracking.config import TrackingConfig

if TYPE_CHECKING:
    from mnist_search.training.device import PrecisionChoice

REPRODUCTION = "reproduction"
"""Name of the series that holds the seeds."""


@dataclass(frozen=True, kw_only=True)
class FinalsConfig:
    """What one command asks for.

    Attributes:
        jobs: worker processes; None for as many as the machine carries.
        mlflow: where runs are written; None for nowhere.
        study: whose parent run they stand under; None for one of their own.
    """

    storage: str
    mlflow: TrackingConfig | None = None
    study: StudyRecord | None = None
    data_dir: Path | None = None
    jobs: int | None = None
    device: str = "auto"
    precision: PrecisionChoice = "auto"
    limits: StopConditions = field(default_factory=StopConditions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One network over its seeds. Accuracies are fractions on the 10,000 test images.

    Attributes:
        n_seeds: trainings that came to an end; ``failed`` those that did not.
        mean, sd, worst: of the accuracy after the last epoch.
        low, high: 95 % interval of the mean, Student's t; None for fewer than two seeds.
        best_epoch: mean over the seeds of the best epoch's accuracy, where epochs were judged.
        seconds: of one training, on average.
        device: what the first was trained on, and how.
    """

    name: str
    parameters: int
    epochs: int
    n_seeds: int
    failed: int
    mean: float | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    worst: float | None = None
    best_epoch: float | None = None
    seconds: float | None = None
    device: str | None = None


def finalists(record: StudyRecord, top: int, seeds: int) -> list[FinalTask]:
    """Trainings of the ``top`` best trials, a seed of all of them before the next.

    Best is by validation accuracy, then by validation loss, then the earlier trial.

    Raises:
        NotFound: no trial is complete.
    """
    chosen = record.ranked[:top]
    if not chosen:
        raise NotFound(
            f"study {record.name!r} has no complete trial yet; go on with mnist-search resume {record.name}"
        )
    configs = [(trial, record.config.space.decode(trial.params)) for trial in chosen]
    return [
        FinalTask(
            name=f"trial {trial.number}", seed=seed,
            architecture=config.architecture, training=config.training,
        )
        for seed in range(seeds)
        for trial, config in configs
    ]  # fmt: skip


def reproductions(names: Sequence[str], seeds: int) -> list[FinalTask]:
    """Trainings of seeds as their authors describe them, and of their networks with our training.

    Raises:
        NotFound: no seed of that name.
    """
    unknown = [name for name in names if name not in BASELINES]
    if unknown:
        raise NotFound(f"no recipe {unknown[0]!r}; there are {', '.join(BASELINES)}, or all")
    return [
        task
        for seed in range(seeds)
        for name in names
        for task in _author_and_default_recipes(BASELINES[name], seed)
    ]


def _author_and_default_recipes(recipe: Recipe, seed: int) -> list[FinalTask]:
    authors = FinalTask(
        name=recipe.name, seed=seed, architecture=recipe.architecture, training=recipe.training,
        judged="every epoch",
    )  # fmt: skip
    return [authors, replace(authors, name=retrained_name(recipe.name), training=TRAINING, judged="once")]


def retrained_name(name: str) -> str:
    """What a seed's network is called when it is trained our way."""
    return f"{name}, our training"


def final_queue_for(
    store: Store, record: StudyRecord, tasks: Sequence[FinalTask], *, again: bool, mirror: bool = False
) -> FinalQueue:
    """The series to run: the one that was begun with these finalists, or a new one.

    Args:
        store: holds the study.
        record: the study.
        tasks: what the finals shall hold.
        again: begin anew although these finalists have been judged.
        mirror: finals that lack runs in MLflow are not finished either.

    Raises:
        UsageError: these finalists have been judged on the test set.
        StudyConflict: others have not been finished.
    """
    earlier = finals_of(store, record)
    fresh = FinalQueue(store, f"final/{record.uid}/{len(earlier) + 1}")
    if not earlier:
        return fresh
    last = earlier[-1]
    known = {(t.task.name, t.task.seed) for t in last.trainings()}
    asked = {(task.name, task.seed) for task in tasks}
    lacks_runs = mirror and any(t.run_id is None for t in last.trainings())
    if asked == known and (last.open or (lacks_runs and not again)):
        return last  # also after --again: the command that began it goes on with it
    if again:
        return fresh
    if last.open:
        raise StudyConflict(
            f"finals of {record.name!r} with other finalists or seeds are not finished; "
            "give the same --top and --seeds to go on with them, or --again to begin anew"
        )
    if {name for name, _ in asked} <= {name for name, _ in known}:
        raise UsageError(
            f"the finalists of {record.name!r} have met the test set already, and to train until its run_cli "
            f"pleases would be choosing by it; see mnist-search finals {record.name}, or say --again"
        )
    return fresh


def finals_of(store: Store, record: StudyRecord) -> list[FinalQueue]:
    """The finals of a study, oldest first."""
    return [FinalQueue(store, name) for name in queue_names(store, f"final/{record.uid}/")]


def run_finals(
    run_config: FinalsConfig,
    open_series: Callable[[], FinalQueue],
    tasks: Sequence[FinalTask],
    screen: ProgressReporter,
) -> tuple[FinalQueue, Stop | None]:
    """Bring a series to its end, or as far as its user lets it come.

    Args:
        run_config: how to run.
        open_series: called when nothing is missing any more, so that a refusal leaves no store behind.
        tasks: what the series shall hold.
        screen: told what workers tell.

    Raises:
        MnistSearchError: nothing could be run; what was there is as it was.
    """
    from mnist_search.data import mnist  # numpy

    device, most_jobs = device_and_jobs(run_config.device, run_config.jobs)
    folder = mnist.find(run_config.data_dir)
    mnist.verify(folder)
    series = open_series()
    series.add(tasks)
    stop = _supervise(run_config, series, folder.absolute(), device, most_jobs, screen)
    if run_config.mlflow is not None:
        with Store.open(run_config.storage, write=True).lock("mirror"):
            _mirror(run_config, run_config.mlflow, series, screen)
    return series, stop


def _supervise(
    run_config: FinalsConfig,
    series: FinalQueue,
    folder: Path,
    device: str,
    most_jobs: int,
    screen: ProgressReporter,
) -> Stop | None:
    jobs = min(most_jobs, len(series.open))
    if not jobs:
        return None
    worker_config = FinalWorkerConfig(
        storage=run_config.storage, series=series.name, data_dir=folder, device=device,
        precision=run_config.precision, limits=run_config.limits,
    )  # fmt: skip
    return supervise(worker_config, jobs, screen, main)


def _mirror(
    run_config: FinalsConfig, tracking_config: TrackingConfig, series: FinalQueue, screen: ProgressReporter
) -> None:
    """Write the runs of trainings that have ended and have none."""
    from mnist_search.tracking.final_runs import FinalsTracker  # a second to import
    from mnist_search.tracking.setup import Parent, parent_of, prepare

    def warn(text: str) -> None:
        screen.show(Message(text))

    parent = parent_of(run_config.study) if run_config.study else Parent(series.name, series.name, {})
    prepared = prepare(tracking_config, parent, warn)
    if prepared is None:
        return
    tracker = FinalsTracker(prepared, series.name, warn)
    for training in series.trainings():
        if training.result is not None and training.run_id is None:
            run_id = tracker.log(training.task, training.result)
            if run_id is not None:
                series.record_run(training, run_id)


def summaries(series: FinalQueue) -> list[Summary]:
    """Every network of a series over its seeds, in the order in which they were added."""
    of: defaultdict[str, list[tuple[FinalTask, FinalResult]]] = defaultdict(list)
    for training in series.trainings():
        if training.result is not None:
            of[training.task.name].append((training.task, training.result))
    return [_summary(*zip(*pairs, strict=True)) for pairs in of.values()]


def _summary(tasks: Sequence[FinalTask], results: Sequence[FinalResult]) -> Summary:
    ends = [r.test_accuracy for r in results if r.test_accuracy is not None]
    bare = Summary(
        name=tasks[0].name,
        parameters=tasks[0].architecture.num_params(),
        epochs=tasks[0].training.epochs,
        n_seeds=len(ends),
        failed=len(results) - len(ends),
    )
    if not ends:
        return bare
    best = [r.best_epoch_accuracy for r in results if r.best_epoch_accuracy is not None]
    bare = replace(
        bare,
        mean=mean(ends),
        worst=min(ends),
        device=results[0].device,
        best_epoch=mean(best) if best else None,
        seconds=mean(r.seconds for r in results if r.test_accuracy is not None),
    )
    if len(ends) == 1:
        return bare
    low, high = interval(ends)
    return replace(bare, sd=stdev(ends), low=low, high=high)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of at least two values, Student's t."""
    from scipy.stats import t  # a second to import

    middle, error = mean(values), stdev(values) / len(values) ** 0.5
    reach = float(t.ppf(0.975, len(values) - 1)) * error
    return middle - reach, middle + reach
