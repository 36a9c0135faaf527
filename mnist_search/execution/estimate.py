"""Estimate of the epochs and the time that a study still takes, from the trials that it has."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from experiments import StudyConfig
from experiments.study_config import rungs
from mnist_search.records import FinalsRecord, StudyRecord, TrialRecord
from mnist_search.search.pruners import first_decision

N_ASSUMED = 2
"""Weight of the assumption that a pruner ends two of three trials as early as it can, in trials of each kind.

The first trials of a study are the best templates, which are seldom pruned.
"""

N_ASSUMED_AT_RUNGS = (30, 9, 3)
"""Trials that screening is assumed to have ended at its rungs: about a third of a rung trains on (LOG.md)."""

MAX_WALL_TIME = 2.0
"""Time of a trial that counts, as a multiple of the time of its epochs: the computer may have been suspended."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Progress of a study in epochs.

    Attributes:
        trained: epochs of finished and running trials.
        left: expected epochs until the study is done.
        seconds_left: until the study is done; None until an epoch of it has been trained.
        seconds_running: until the running trials have ended.
        share: trained images as a share of those of the whole study.
        is_exact: whether ``left`` is known, since nothing ends a trial early.
    """

    trained: int
    left: float
    seconds_left: float | None = None
    seconds_running: float | None = None
    share: float = 0.0
    is_exact: bool = True

    @property
    def total(self) -> float:
        """Expected epochs of the whole study."""
        return self.trained + self.left


def estimate(record: StudyRecord | FinalsRecord, running: Mapping[int, int], jobs: int) -> Estimate:
    """Estimate what is left of a study.

    Args:
        record: the study, as read some seconds ago.
        running: the trained epochs of every running trial, by number.
        jobs: number of concurrent trials.
    """
    done = [trial for trial in record.done if trial.number not in running]
    images = _images(record.trials[-1]) if record.trials else 1
    stages = [_Stage(images, *_epochs_left(record, running, done))]
    if isinstance(record, FinalsRecord):
        stages += [_Stage(each.images, [], [float(each.epochs)] * each.n_trials) for each in record.later]
    n_trained = sum(t.epochs * _images(t) for t in done) + images * sum(running.values())
    n_left = sum(stage.images * stage.epochs for stage in stages)
    progress = Estimate(
        trained=sum(trial.epochs for trial in done) + sum(running.values()),
        left=sum(stage.epochs for stage in stages),
        share=n_trained / (n_trained + n_left) if n_trained else 0.0,
        is_exact=isinstance(record, FinalsRecord) or record.config.pruner == "none" or not n_left,
    )
    seconds = _seconds_per_image(record.trials)
    if seconds is None:
        return progress
    return replace(
        progress,
        seconds_left=seconds * sum(stage.images * stage.longest_job(jobs) for stage in stages),
        seconds_running=seconds * images * max(stages[0].running, default=0.0),
    )


@dataclass(frozen=True, slots=True)
class _Stage:
    """Epochs left of running and waiting trials; a stage of finals starts when the one before has ended."""

    images: int
    running: Sequence[float]
    waiting: Sequence[float]

    @property
    def epochs(self) -> float:
        return sum(self.running) + sum(self.waiting)

    def longest_job(self, jobs: int) -> float:
        """Epochs of the job that ends last, if every waiting trial takes the first free one of ``jobs``."""
        ends = [*self.running, *[0.0] * (jobs - len(self.running))] or [0.0]
        heapq.heapify(ends)
        for epochs in self.waiting:
            heapq.heapreplace(ends, ends[0] + epochs)
        return max(ends)


def _epochs_left(
    record: StudyRecord | FinalsRecord, running: Mapping[int, int], done: Sequence[TrialRecord]
) -> tuple[list[float], list[float]]:
    """Expected epochs of the running and of the waiting trials."""
    if isinstance(record, StudyRecord):
        ended = [trial.epochs for trial in done] + _assumed_epochs(record.config)
        expected = _expected_epochs(ended, list(running.values()), record.config.space.epochs)
        of_running = [1 + expected[n + 1] if n + 1 < len(expected) else 0.0 for n in running.values()]
        return of_running, [expected[0]] * max(0, record.n_trials - len(done) - len(running))
    lengths = {t.number: t.task.training.epochs for t in record.current if t.task}
    of_running = [max(0.0, lengths.get(number, n) - n) for number, n in running.items()]
    open_trials = [t for t in record.of_round(record.rounds) if not t.is_finished]
    return of_running, [float(lengths[t.number]) for t in open_trials if t.number not in running]


def _images(trial: TrialRecord) -> int:
    """Training images of an epoch of a final trial; 1 in a search, whose trials have the same number."""
    return trial.task.images if trial.task else 1


def _assumed_epochs(config: StudyConfig) -> list[int]:
    """Epochs of trials that are assumed to have ended before the first trial of the study."""
    shortest, full = first_decision(config), config.space.epochs
    if config.pruner == "screening":
        at_rungs = zip(rungs(full), N_ASSUMED_AT_RUNGS, strict=False)  # short trials have fewer rungs
        return [end for end, number in at_rungs for _ in range(number)]
    return [] if config.pruner == "none" else [shortest, shortest, full] * N_ASSUMED


def _expected_epochs(done: Sequence[int], running: Sequence[int], full: int) -> list[float]:
    """Expected further epochs of a trial with 0, 1, ..., ``full`` epochs that is not known to continue.

    The share of trials that end after an epoch is that of the trials which have reached it (Kaplan-Meier),
    so that short trials, which finish first, do not count twice.
    """
    ended, going_on = Counter(done), Counter(running)
    reached = sum(epochs >= full for epochs in done) + sum(epochs > full for epochs in running)
    expected = [0.0] * (full + 1)
    for n in range(full - 1, -1, -1):
        reached += ended[n] + going_on[n + 1]
        continues = 1 - ended[n] / reached if reached else 1.0
        expected[n] = continues * (1 + expected[n + 1])
    return expected


def _seconds_per_image(trials: Sequence[TrialRecord]) -> float | None:
    """Mean seconds per trained image, with the time between epochs and trials; None without epochs."""
    measured = [(_seconds(trial), trial.epochs * _images(trial)) for trial in trials if trial.epochs]
    known = [(seconds, images) for seconds, images in measured if not math.isnan(seconds)]
    return sum(seconds for seconds, _ in known) / sum(images for _, images in known) if known else None


def _seconds(trial: TrialRecord) -> float:
    trained = sum(epoch.seconds for epoch in trial.curve)
    if trial.seconds is None:
        return trained
    return trial.seconds if math.isnan(trained) else min(trial.seconds, MAX_WALL_TIME * trained)


def duration(seconds: float) -> str:
    """A duration such as ``2 h 27 min``, ``27 min`` or ``40 s``."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
