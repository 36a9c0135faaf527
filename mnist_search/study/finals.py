"""Finals: finalists of a study, and the seeds, trained with several seeds and judged on the test set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev

from experiments import SEEDS, Recipe
from experiments.ours import TRAINING
from mnist_search.errors import NotFound, StudyConflict, UsageError
from mnist_search.facts import StudyFacts
from mnist_search.study.events import Message
from mnist_search.study.limits import Limits
from mnist_search.study.run import device_and_jobs
from mnist_search.study.series import Series, series_of
from mnist_search.study.series_worker import SeriesJob, main
from mnist_search.study.store import Store
from mnist_search.study.supervisor import Screen, Stop, supervise
from mnist_search.tasks import Result, Task
from mnist_search.tracking.place import MlflowPlace

REPRODUCTION = "reproduction"
"""Name of the series that holds the seeds."""


@dataclass(frozen=True, kw_only=True)
class SeriesPlan:
    """What one command asks for.

    Attributes:
        jobs: worker processes; None for as many as the machine carries.
        mlflow: where runs are written; None for nowhere.
        study: whose parent run they stand under; None for one of their own.
    """

    storage: str
    mlflow: MlflowPlace | None = None
    study: StudyFacts | None = None
    data_dir: Path | None = None
    jobs: int | None = None
    device: str = "auto"
    precision: str = "auto"
    limits: Limits = field(default_factory=Limits)


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


def finalists(facts: StudyFacts, top: int, seeds: int) -> list[Task]:
    """Trainings of the ``top`` best trials, a seed of all of them before the next.

    Best is by validation accuracy, then by validation loss, then the earlier trial.

    Raises:
        NotFound: no trial is complete.
    """
    chosen = facts.ranked[:top]
    if not chosen:
        raise NotFound(
            f"study {facts.name!r} has no complete trial yet; go on with mnist-search resume {facts.name}"
        )
    configs = [(trial, facts.experiment.space.decode(trial.genes)) for trial in chosen]
    return [
        Task(
            name=f"trial {trial.number}", seed=seed,
            architecture=config.architecture, training=config.training,
        )
        for seed in range(seeds)
        for trial, config in configs
    ]  # fmt: skip


def reproductions(names: Sequence[str], seeds: int) -> list[Task]:
    """Trainings of seeds as their authors describe them, and of their networks with our training.

    Raises:
        NotFound: no seed of that name.
    """
    unknown = [name for name in names if name not in SEEDS]
    if unknown:
        raise NotFound(f"no recipe {unknown[0]!r}; there are {', '.join(SEEDS)}, or all")
    return [task for seed in range(seeds) for name in names for task in _both_trainings(SEEDS[name], seed)]


def _both_trainings(recipe: Recipe, seed: int) -> list[Task]:
    authors = Task(
        name=recipe.name, seed=seed, architecture=recipe.architecture, training=recipe.training,
        judged="every epoch",
    )  # fmt: skip
    return [authors, replace(authors, name=under_our_training(recipe.name), training=TRAINING, judged="once")]


def under_our_training(name: str) -> str:
    """What a seed's network is called when it is trained our way."""
    return f"{name}, our training"


def series_for_finals(
    store: Store, facts: StudyFacts, tasks: Sequence[Task], *, again: bool, mirror: bool = False
) -> Series:
    """The series to run: the one that was begun with these finalists, or a new one.

    Args:
        store: holds the study.
        facts: the study.
        tasks: what the finals shall hold.
        again: begin anew although these finalists have been judged.
        mirror: finals that lack runs in MLflow are not finished either.

    Raises:
        UsageError: these finalists have been judged on the test set.
        StudyConflict: others have not been finished.
    """
    earlier = finals_of(store, facts)
    fresh = Series(store, f"final/{facts.uid}/{len(earlier) + 1}")
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
            f"finals of {facts.name!r} with other finalists or seeds are not finished; "
            "give the same --top and --seeds to go on with them, or --again to begin anew"
        )
    if {name for name, _ in asked} <= {name for name, _ in known}:
        raise UsageError(
            f"the finalists of {facts.name!r} have met the test set already, and to train until its answer "
            f"pleases would be choosing by it; see mnist-search finals {facts.name}, or say --again"
        )
    return fresh


def finals_of(store: Store, facts: StudyFacts) -> list[Series]:
    """The finals of a study, oldest first."""
    return [Series(store, name) for name in series_of(store, f"final/{facts.uid}/")]


def run_series(
    plan: SeriesPlan, open_series: Callable[[], Series], tasks: Sequence[Task], screen: Screen
) -> tuple[Series, Stop | None]:
    """Bring a series to its end, or as far as its user lets it come.

    Args:
        plan: how to run.
        open_series: called when nothing is missing any more, so that a refusal leaves no store behind.
        tasks: what the series shall hold.
        screen: told what workers tell.

    Raises:
        MnistSearchError: nothing could be run; what was there is as it was.
    """
    from mnist_search.training import files  # numpy

    device, most_jobs = device_and_jobs(plan.device, plan.jobs)
    folder = files.find(plan.data_dir)
    files.verify(folder)
    series = open_series()
    series.add(tasks)
    stop = _supervise(plan, series, folder.absolute(), device, most_jobs, screen)
    if plan.mlflow is not None:
        with Store.open(plan.storage, write=True).lock("mirror"):
            _mirror(plan, plan.mlflow, series, screen)
    return series, stop


def _supervise(
    plan: SeriesPlan, series: Series, folder: Path, device: str, most_jobs: int, screen: Screen
) -> Stop | None:
    jobs = min(most_jobs, len(series.open))
    if not jobs:
        return None
    job = SeriesJob(
        storage=plan.storage, series=series.name, data_dir=folder, device=device,
        precision=plan.precision, limits=plan.limits,
    )  # fmt: skip
    return supervise(job, jobs, screen, main)


def _mirror(plan: SeriesPlan, place: MlflowPlace, series: Series, screen: Screen) -> None:
    """Write the runs of trainings that have ended and have none."""
    from mnist_search.tracking.finals import FinalsTracker  # a second to import
    from mnist_search.tracking.prepare import Parent, parent_of, prepare

    def warn(text: str) -> None:
        screen.show(Message(text))

    parent = parent_of(plan.study) if plan.study else Parent(series.name, series.name, {})
    prepared = prepare(place, parent, warn)
    if prepared is None:
        return
    tracker = FinalsTracker(prepared, series.name, warn)
    for training in series.trainings():
        if training.result is not None and training.run_id is None:
            run_id = tracker.log(training.task, training.result)
            if run_id is not None:
                series.remember_run(training, run_id)


def summaries(series: Series) -> list[Summary]:
    """Every network of a series over its seeds, in the order in which they were added."""
    of: defaultdict[str, list[tuple[Task, Result]]] = defaultdict(list)
    for training in series.trainings():
        if training.result is not None:
            of[training.task.name].append((training.task, training.result))
    return [_summary(*zip(*pairs, strict=True)) for pairs in of.values()]


def _summary(tasks: Sequence[Task], results: Sequence[Result]) -> Summary:
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
