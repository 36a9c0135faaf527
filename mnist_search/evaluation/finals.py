"""Finals: finalists, reproductions of the baselines, and which finals may run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from statistics import mean

from experiments import BASELINES
from experiments.defaults import TRAINING
from experiments.study_config import N_TRAIN_IMAGES
from mnist_search.errors import NotFound, StudyConflict, UsageError
from mnist_search.records import (
    FinalsRecord,
    FinalStage,
    FinalTask,
    StudyRecord,
    TrialRecord,
    counted,
    percent,
)
from mnist_search.storage import finals
from mnist_search.storage.database import Store
from mnist_search.storage.older_stores import OLD_REPRODUCTIONS

FIRST_REPEAT_SEED = 100
"""Of repeated trainings; the final trials have smaller ones, so that no seed selects and is then evaluated."""

RETRAINED_SUFFIX = ", our training"
"""Stored suffix of the name of a baseline's network with the default training configuration."""


def finalists(record: StudyRecord, top: int) -> list[TrialRecord]:
    """The ``top`` best trials of a study, best first.

    Raises:
        NotFound: no trial is complete.
    """
    trials = record.ranked[:top]
    if not trials:
        raise NotFound(
            f"study {record.name!r} has no complete trial yet; continue it with mnist-search resume {record.name}"
        )
    return trials


def next_tasks(
    record: StudyRecord,
    finalists: Sequence[TrialRecord],
    trials: Sequence[TrialRecord],
    *,
    number: int,
    seeds: int,
    evaluate_all: bool,
) -> list[FinalTask]:
    """The tasks of the first unfinished stage of a round, or of its last stage.

    Successive halving on repeated trainings selects the champion: every finalist is trained again on the
    search's split with another seed, then the better half by mean validation accuracy with a third seed,
    until one is left. The last stage trains it on all training images with ``seeds`` seeds and evaluates it
    on the test set; with ``evaluate_all``, it does so with every finalist, and nothing is repeated.

    Args:
        record: the search.
        finalists: of the round, best first.
        trials: of the round, as stored now.
        number: of the round.
        seeds: number of seeds of the last stage.
        evaluate_all: whether every finalist is evaluated on the test set.
    """
    left = finalists
    seed = FIRST_REPEAT_SEED
    while len(left) > 1 and not evaluate_all:
        tasks = [_task(record, trial, seed, number, split=record.config.split) for trial in left]
        done = {trial.task.key for trial in trials if trial.task and not trial.is_open}
        if any(task.key not in done for task in tasks):
            return tasks
        means = {trial.number: mean(val_accuracies(trial, trials, seed)) for trial in left}
        left = sorted(left, key=lambda trial: -means[trial.number])[: len(left) // 2]
        seed += 1
    return [_task(record, trial, seed, number) for seed in range(seeds) for trial in left]


def later_stages(tasks: Sequence[FinalTask], seeds: int) -> list[FinalStage]:
    """The stages of a round after the one with these tasks, whose trials ``next_tasks`` will name."""
    if tasks[0].split is None:
        return []
    epochs, images = tasks[0].training.epochs, tasks[0].images
    n_finalists = len(tasks) // 2
    stages = []
    while n_finalists > 1:
        stages.append(FinalStage(n_trials=n_finalists, epochs=epochs, images=images))
        n_finalists //= 2
    return [*stages, FinalStage(n_trials=seeds, epochs=epochs, images=N_TRAIN_IMAGES)]


def _task(
    record: StudyRecord, trial: TrialRecord, seed: int, number: int, split: tuple[int, int, int] | None = None
) -> FinalTask:
    config = record.config.space.decode(trial.params)
    return FinalTask(
        name=finalist_name(trial),
        seed=seed,
        architecture=config.architecture,
        training=config.training,
        round=number,
        split=split,
    )


def announcement(tasks: Sequence[FinalTask], trials: Sequence[TrialRecord]) -> str | None:
    """What a stage trains, in a sentence; None if it is finished."""
    done = {trial.task.key for trial in trials if trial.task and not trial.is_open}
    if all(task.key in done for task in tasks):
        return None
    names = list(dict.fromkeys(task.name for task in tasks))
    subject = f"{names[0]} is" if len(names) == 1 else f"{len(names)} finalists are"
    if tasks[0].split:
        return f"{subject} trained again on the search's split; the better half by mean accuracy goes on"
    seeds = max(task.seed for task in tasks) + 1
    text = (
        f"{subject} trained on all 60,000 images with {counted(seeds, 'seed')}, and evaluated on the test set"
    )
    return f"{text}: {reason}" if (reason := _reason(names[0], trials)) and len(names) == 1 else text


def _reason(name: str, trials: Sequence[TrialRecord]) -> str | None:
    """Why a finalist is the champion: its repeated trainings; None without any."""
    repeats = [t for t in trials if t.task and t.task.split and t.task.name == name]
    accuracies = [percent(trial.val_accuracy) for trial in repeats]
    return f"best mean validation accuracy (repeated: {', '.join(accuracies)})" if accuracies else None


def val_accuracies(
    trial: TrialRecord, trials: Sequence[TrialRecord], last_seed: int | None = None
) -> list[float]:
    """Validation accuracies of a finalist in the search and in its repeated trainings; 0 if one diverged.

    ``last_seed`` leaves out the repeated trainings with larger seeds, those of later stages.
    """
    accuracies = [trial.val_accuracy or 0.0]
    for each in trials:
        if each.task is None or each.task.split is None or each.is_open:
            continue
        if each.task.name == finalist_name(trial) and (last_seed is None or each.task.seed <= last_seed):
            accuracies.append(each.val_accuracy or 0.0)
    return accuracies


def finalist_name(trial: TrialRecord) -> str:
    """The name of a trial's finals."""
    return f"trial {trial.number}"


def ranked_finalists(record: StudyRecord, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The finalists of a round: those that were repeated most often first, then by mean validation accuracy."""
    names = {trial.task.name for trial in trials if trial.task}
    values = {t.number: val_accuracies(t, trials) for t in record.ranked if finalist_name(t) in names}
    finalists = (trial for trial in record.ranked if trial.number in values)
    return sorted(finalists, key=lambda t: (-len(values[t.number]), -mean(values[t.number])))


def select_champion(record: StudyRecord, trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """The best finalist of a round by validation that the test set has evaluated; None if there is none yet."""
    evaluated = {trial.task.name for trial in trials if trial.task and trial.test_accuracy is not None}
    finalists = ranked_finalists(record, trials)
    return next((trial for trial in finalists if finalist_name(trial) in evaluated), None)


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
    record: FinalsRecord | None, study: str, names: Sequence[str], seeds: int, *, again: bool
) -> int:
    """The round to train: the last one if it has the same finalists, or a new one.

    ``record`` are the finals of the search study ``study``; None without any. With ``again``, finalists
    are trained again that were already evaluated.

    Raises:
        UsageError: these finalists were already evaluated on the test set.
        StudyConflict: finals of other finalists, or of more seeds, are unfinished.
    """
    number = record.rounds if record else 0
    last = record.of_round(number) if record else []
    evaluated = [trial.task.seed for trial in last if trial.task and not trial.task.split]
    is_open = bool(last) and (not evaluated or any(trial.is_open for trial in last))
    stored = {trial.task.name for trial in last if trial.task}
    has_more_seeds = is_open and max(evaluated, default=0) >= seeds
    if not stored:
        return number + 1
    if stored == set(names) and not has_more_seeds and (is_open or not again):
        return number
    if is_open and not again:
        raise StudyConflict(
            f"finals of {study!r} with other finalists or seeds are unfinished; pass the same "
            "--top and --seeds to continue them, or --again to start new ones"
        )
    evaluated_names = {trial.task.name for trial in last if trial.task and not trial.task.split}
    if not again and (stored.issuperset(names) or evaluated_names & set(names)):
        raise UsageError(
            f"finalists of {study!r} were already evaluated on the test set; repeating it with others would "
            f"select on test data. See `mnist-search finals {study}`, or pass --again"
        )
    return number + 1


DEFAULT_TOP, DEFAULT_SEEDS = 5, 5


def size_of_round(record: FinalsRecord | None) -> tuple[int, int]:
    """Finalists and seeds of the last round; the defaults without one."""
    last = record.of_round(record.rounds) if record else []
    names = {trial.task.name for trial in last if trial.task}
    seeds = [trial.task.seed for trial in last if trial.task and not trial.task.split]
    later = record.later[-1].n_trials if record and record.later else DEFAULT_SEEDS
    return len(names) or DEFAULT_TOP, 1 + max(seeds) if seeds else later


def evaluates_all(trials: Sequence[TrialRecord]) -> bool:
    """Whether a round evaluates every finalist on the test set."""
    return len({trial.task.name for trial in trials if trial.task and not trial.task.split}) > 1


def finals_of(store: Store, record: StudyRecord) -> FinalsRecord | None:
    """The finals of a search study; None without any."""
    return finals.load(store, finals.name_of_finals(record.name), record.uid)


def baseline_finals(store: Store) -> FinalsRecord | None:
    """The finals of the baselines; None without any."""
    return finals.load(store, finals.BASELINE_FINALS, OLD_REPRODUCTIONS)
