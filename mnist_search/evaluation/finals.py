"""Finals: finalists, reproductions of the baselines, and which finals may run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from experiments import BASELINES
from experiments.defaults import TRAINING
from mnist_search.errors import NotFound, StudyConflict, UsageError
from mnist_search.records import FinalsRecord, FinalTask, StudyRecord, TrialRecord
from mnist_search.storage import finals
from mnist_search.storage.database import Store
from mnist_search.storage.older_stores import OLD_REPRODUCTIONS

RETRAINED_SUFFIX = ", our training"
"""Stored suffix of the name of a baseline's network with the default training configuration."""


def finalists(record: StudyRecord, top: int, seeds: int) -> list[FinalTask]:
    """Final trials of the ``top`` best trials, ordered by seed, then by rank.

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
    """The name of a trial's finals."""
    return f"trial {trial.number}"


def reproductions(names: Sequence[str], seeds: int) -> list[FinalTask]:
    """Final trials of baselines with their authors' recipe and with the default training configuration.

    Raises:
        NotFound: no baseline of that name.
    """
    unknown = [name for name in names if name not in BASELINES]
    if unknown:
        raise NotFound(f"no baseline {unknown[0]!r}; choose one of {', '.join(BASELINES)}, or all")
    tasks = []
    for seed, recipe in product(range(seeds), map(BASELINES.__getitem__, names)):
        task = FinalTask(
            name=recipe.name, seed=seed, architecture=recipe.architecture, training=recipe.training
        )
        retrained = replace(task, name=recipe.name + RETRAINED_SUFFIX, training=TRAINING)
        tasks += [replace(task, evaluate="every epoch"), retrained]
    return tasks


def select_round(
    record: FinalsRecord | None, study: str, tasks: Sequence[FinalTask], *, again: bool
) -> list[FinalTask]:
    """The tasks in the round to train: the last one if it has the same tasks, or a new one.

    ``record`` are the finals of the search study ``study``; None without any. With ``again``, finalists
    are trained again that were already evaluated.

    Raises:
        UsageError: these finalists were already evaluated on the test set with other seeds.
        StudyConflict: finals of other finalists are unfinished.
    """
    number = record.rounds if record else 0
    last = record.of_round(number) if record else []
    is_open = any(trial.is_open for trial in last)
    requests = {(task.name, task.seed) for task in tasks}
    stored = {(trial.task.name, trial.task.seed) for trial in last if trial.task}
    if requests != stored or (again and not is_open):
        number += 1
        if is_open and not again:
            raise StudyConflict(
                f"finals of {study!r} with other finalists or seeds are unfinished; pass the same "
                "--top and --seeds to continue them, or --again to start new ones"
            )
        if stored and not again and {name for name, _ in requests} <= {name for name, _ in stored}:
            raise UsageError(
                f"finalists of {study!r} were already evaluated on the test set; repeating it would "
                f"select on test data. See `mnist-search finals {study}`, or pass --again"
            )
    return [replace(task, round=number) for task in tasks]


def finals_of(store: Store, record: StudyRecord) -> FinalsRecord | None:
    """The finals of a search study; None without any."""
    return finals.load(store, finals.name_of_finals(record.name), record.uid)


def baseline_finals(store: Store) -> FinalsRecord | None:
    """The finals of the baselines; None without any."""
    return finals.load(store, finals.BASELINE_FINALS, OLD_REPRODUCTIONS)
