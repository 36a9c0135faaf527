"""Final evaluations: finalists, reproductions of the baselines, and which finals may run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from experiments import BASELINES, Recipe
from experiments.defaults import TRAINING
from mnist_search.errors import NotFound, StudyConflict, UsageError
from mnist_search.records import FinalTask, StudyRecord, TrialRecord
from mnist_search.storage.database import Store
from mnist_search.storage.final_queue import FinalQueue, queue_names

REPRODUCTION = "reproduction"
"""Name of the queue of the reproductions."""

RETRAINED_SUFFIX = ", our training"
"""Stored suffix of the name of a baseline's network with the default training configuration."""


def finalists(record: StudyRecord, top: int, seeds: int) -> list[FinalTask]:
    """Training runs of the ``top`` best trials, ordered by seed, then by rank.

    Trials rank by validation accuracy, then by validation loss, then by number.

    Raises:
        NotFound: no trial is complete.
    """
    trials = record.ranked[:top]
    if not trials:
        raise NotFound(
            f"study {record.name!r} has no complete trial yet; continue it with mnist-search resume {record.name}"
        )
    configs = [(finalist_name(trial), record.config.space.decode(trial.params)) for trial in trials]
    return [
        FinalTask(name=name, seed=seed, architecture=config.architecture, training=config.training)
        for seed in range(seeds)
        for name, config in configs
    ]


def finalist_name(trial: TrialRecord) -> str:
    """The name of a trial's final training runs."""
    return f"trial {trial.number}"


def reproductions(names: Sequence[str], seeds: int) -> list[FinalTask]:
    """Training runs of baselines with their authors' recipe and with the default training configuration.

    Raises:
        NotFound: no baseline of that name.
    """
    unknown = [name for name in names if name not in BASELINES]
    if unknown:
        raise NotFound(f"no baseline {unknown[0]!r}; choose one of {', '.join(BASELINES)}, or all")
    return [
        task
        for seed in range(seeds)
        for name in names
        for task in _author_and_default_recipes(BASELINES[name], seed)
    ]


def _author_and_default_recipes(recipe: Recipe, seed: int) -> list[FinalTask]:
    author = FinalTask(
        name=recipe.name,
        seed=seed,
        architecture=recipe.architecture,
        training=recipe.training,
        evaluate="every epoch",
    )
    return [author, replace(author, name=recipe.name + RETRAINED_SUFFIX, training=TRAINING, evaluate="once")]


def final_queue_for(
    store: Store, record: StudyRecord, tasks: Sequence[FinalTask], *, again: bool, needs_runs: bool = False
) -> FinalQueue:
    """The queue of finals to run: unfinished finals of these finalists, or new ones.

    Args:
        store: of the study.
        record: the study.
        tasks: training runs of the finals.
        again: start new finals of finalists that were already evaluated.
        needs_runs: finals without MLflow runs are unfinished, too.

    Raises:
        UsageError: these finalists were already evaluated on the test set.
        StudyConflict: finals of other finalists are unfinished.
    """
    earlier = finals_of(store, record)
    new = FinalQueue(store, f"final/{record.uid}/{len(earlier) + 1}")
    if not earlier:
        return new
    last = earlier[-1]
    stored = {(t.task.name, t.task.seed) for t in last.trainings()}
    requests = {(task.name, task.seed) for task in tasks}
    lacks_runs = needs_runs and any(t.run_id is None for t in last.trainings())
    if requests == stored and (last.open or (lacks_runs and not again)):
        return last  # with --again, too: the same command continues the finals that it started
    if again:
        return new
    if last.open:
        raise StudyConflict(
            f"finals of {record.name!r} with other finalists or seeds are unfinished; pass the same "
            "--top and --seeds to continue them, or --again to start new ones"
        )
    if {name for name, _ in requests} <= {name for name, _ in stored}:
        raise UsageError(
            f"finalists of {record.name!r} were already evaluated on the test set; repeating it would "
            f"select on test data. See `mnist-search finals {record.name}`, or pass --again"
        )
    return new


def finals_of(store: Store, record: StudyRecord) -> list[FinalQueue]:
    """The queues of a study's finals, oldest first."""
    return [FinalQueue(store, name) for name in queue_names(store, f"final/{record.uid}/")]
