"""Test accuracy over several seeds: mean, standard deviation, confidence interval."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from statistics import mean, stdev
from typing import Any

from scipy.special import stdtrit

from mnist_search.evaluation.finals import (
    finalist_name,
    finals_of,
    ranked_finalists,
    select_champion,
    val_accuracies,
)
from mnist_search.records import StudyRecord, TrialRecord
from mnist_search.storage.database import Store

MIN_SEEDS = 3
"""Seeds of a confidence interval: that of two has a width of zero if they agree by chance, or up to 100 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedStatistics:
    """One network over its seeds. Accuracies are fractions on the 10,000 test images.

    Attributes:
        n_seeds: number of complete trials.
        test_accuracy_mean, test_accuracy_sd, worst: of the accuracy after the last epoch.
        low, high: 95 % confidence interval of the mean; None for fewer than MIN_SEEDS seeds.
        best_epoch: mean over the seeds of the best epoch's accuracy; None without accuracies per epoch.
        seconds: mean duration of a trial.
        device: device and compute mode of the first complete trial.
    """

    name: str
    parameters: int
    epochs: int
    n_seeds: int
    failed: int
    test_accuracy_mean: float | None
    test_accuracy_sd: float | None
    low: float | None
    high: float | None
    worst: float | None
    best_epoch: float | None
    seconds: float | None
    device: str | None


def seed_statistics(trials: Sequence[TrialRecord]) -> list[SeedStatistics]:
    """Statistics of every network of some finals, in the order in which they were added."""
    by_name: defaultdict[str, list[TrialRecord]] = defaultdict(list)
    for trial in trials:
        if trial.task and trial.task.split is None and trial.is_finished:
            by_name[trial.task.name].append(trial)
    return [_statistics(each) for each in by_name.values()]


def _statistics(trials: Sequence[TrialRecord]) -> SeedStatistics:
    task = trials[0].task
    assert task is not None
    complete = [trial for trial in trials if trial.test_accuracy is not None]
    accuracies = [trial.test_accuracy or 0.0 for trial in complete]
    best = [trial.best_epoch_accuracy for trial in complete if trial.best_epoch_accuracy is not None]
    low, high = confidence_interval(accuracies) if len(accuracies) >= MIN_SEEDS else (None, None)
    return SeedStatistics(
        name=task.name,
        parameters=task.architecture.num_params(),
        epochs=task.training.epochs,
        n_seeds=len(accuracies),
        failed=len(trials) - len(accuracies),
        test_accuracy_mean=mean(accuracies) if accuracies else None,
        test_accuracy_sd=stdev(accuracies) if len(accuracies) > 1 else None,
        low=low,
        high=high,
        worst=min(accuracies, default=None),
        best_epoch=mean(best) if best else None,
        seconds=mean(trial.seconds or 0.0 for trial in complete) if complete else None,
        device=complete[0].device if complete else None,
    )


def confidence_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % confidence interval of the mean of at least two accuracies, by Student's t, within 0 and 1."""
    center, standard_error = mean(values), stdev(values) / len(values) ** 0.5
    margin = float(stdtrit(len(values) - 1, 0.975)) * standard_error
    return max(0.0, center - margin), min(1.0, center + margin)


def final_rows(store: Store, record: StudyRecord) -> list[dict[str, Any]] | None:
    """Finalists of a study's latest finals, the champion first; None without finals.

    A row has the test accuracies of ``SeedStatistics``, None for a finalist that was not evaluated on the
    test set, and the validation accuracy in the search and its mean over all trainings.
    """
    finals = finals_of(store, record)
    if finals is None:
        return None
    trials = finals.of_round(finals.rounds)
    statistics = {row.name: asdict(row) for row in seed_statistics(trials)}
    champion = select_champion(record, trials)
    rows = []
    for trial in ranked_finalists(record, trials):
        accuracies = val_accuracies(trial, trials)
        name = finalist_name(trial)
        rows.append(
            dict.fromkeys(field.name for field in fields(SeedStatistics))
            | {"name": name, "parameters": trial.num_params, "n_seeds": 0, "failed": 0}
            | statistics.get(name, {})
            | {
                "val_accuracy": trial.val_accuracy,
                "val_accuracy_mean": mean(accuracies),
                "n_val_seeds": len(accuracies),
                "champion": champion is not None and trial.number == champion.number,
            }
        )
    return rows
