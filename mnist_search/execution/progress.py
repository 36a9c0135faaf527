"""Progress of a run on stderr: a live table on a terminal, plain lines elsewhere, or messages only."""

from __future__ import annotations

import io
import logging
import os
import sys
import time
from contextlib import suppress
from typing import Any, Literal, Self, TypeAlias

import typer
from optuna.exceptions import StorageInternalError
from rich.console import Console
from rich.live import Live
from sqlalchemy.exc import SQLAlchemyError

from mnist_search.execution import live_table
from mnist_search.execution.config import ReadRecord
from mnist_search.execution.estimate import Estimate, duration, estimate
from mnist_search.execution.events import (
    Event,
    Message,
    ProcessEvent,
    Stop,
    TrialEnded,
    TrialEpoch,
    TrialStarted,
)
from mnist_search.execution.live_table import RunningTrial, label, listed
from mnist_search.execution.supervisor import ProgressReporter
from mnist_search.records import FinalsRecord, StudyRecord, counted, percent
from mnist_search.storage.database import retry

logger = logging.getLogger(__name__)

ProgressMode: TypeAlias = Literal["auto", "live", "plain", "none"]

REFRESH_SECONDS = 15.0
"""Interval of reads of the store, which other machines may write."""

LINE_SECONDS = 50.0
"""Interval of plain lines with the time left."""


class PlainReporter(ProgressReporter):
    """Prints a line per finished trial, and at least once a minute the progress of the study.

    ``started`` is when the command started, by ``time.monotonic``.
    """

    def __init__(self, read_record: ReadRecord, jobs: int, started: float | None = None) -> None:
        self._read_record, self._jobs = read_record, jobs
        self._running: dict[int, TrialStarted] = {}
        self._epochs: dict[int, TrialEpoch] = {}
        self._record = retry(read_record)
        self._read_at = time.monotonic()
        self._started = self._line_at = self._read_at if started is None else started
        self._is_changed, self._is_syncing, self._is_finishing = True, False, False
        self._estimate = Estimate(0, 0.0)
        self._end = 0.0

    def __enter__(self) -> Self:
        done, n_trials = len(self._record.done), self._record.n_trials
        state = f"--jobs {self._jobs}" if self._jobs else "nothing is left to train"
        self.print_line(f"study {self._record.name}: {done} of {n_trials} trials done, {state}")
        return self

    def __exit__(self, *error: object) -> None:
        """Plain lines need no cleanup."""

    def _read(self) -> None:
        with suppress(SQLAlchemyError, StorageInternalError):  # locked; the display shows what it has
            self._record = self._read_record()
        self._read_at = time.monotonic()
        self._is_changed = True

    def handle(self, event: Event) -> None:
        """Update the rows and print finished trials and messages."""
        self._is_changed = True
        match event:
            case TrialStarted(number):
                self._running[number] = event
                self._epochs.pop(number, None)  # of a crashed attempt
                if isinstance(self._record, FinalsRecord) and self._record.trial(number) is None:
                    self._read()
            case TrialEpoch(number):
                self._epochs[number] = event
                if self._estimate.seconds_left is None:
                    self._read()
            case TrialEnded(number):
                self._read()
                self.print_line(self._trial_line(event))
                self._running.pop(number, None)
                self._epochs.pop(number, None)
            case Stop():
                self._is_finishing = event.finish_running
                self.print_line(self._stop_line(event))
            case ProcessEvent.ONLY_SYNC:
                self._is_syncing = True
            case Message(text):
                self.print_line(text)

    def _trial_line(self, event: TrialEnded) -> str:
        trial = self._record.trial(event.number)
        state = "released" if event.state == "WAITING" else event.state.lower()
        words = [f"{label(self._record, event.number):9} {state:8}"]
        if trial and trial.is_finished:
            accuracy = trial.val_accuracy if trial.test_accuracy is None else trial.test_accuracy
            kind = "" if trial.task is None else " validation" if trial.task.split else " test"
            words += [f"{percent(accuracy):>8}{kind}", f"{trial.num_params or 0:7,} parameters"]
            words += [f"{counted(trial.epochs, 'epoch'):>9}", f"{trial.seconds or 0:5.0f} s"]
            words += [f"{len(self._record.done)}/{self._record.n_trials}"]
        elif event.state == "WAITING":
            words.append(_lost(self._trained(event.number)))
        if event.reason:
            words.append(event.reason)
        if isinstance(self._record, StudyRecord) and (best := self._record.best):
            is_new = best.number == event.number
            words.append("new best" if is_new else f"best {percent(best.val_accuracy)} (trial {best.number})")
        return "  ".join(words)

    def _stop_line(self, stop: Stop) -> str:
        """Which trials are released, and how many trained epochs that costs."""
        trials = listed([label(self._record, number) for number in sorted(self._running)])
        lost = sum(map(self._trained, self._running))
        if not trials:
            return f"stopped: {stop.reason}"
        if stop.finish_running:
            seconds = self._update().seconds_running
            left = "" if seconds is None else f" (about {duration(max(seconds, 1))})"
            return (
                f"{stop.reason}: no new trial starts; waiting for the end of {trials}{left}; "
                "another signal releases them"
            )
        return f"{stop.reason}: releasing {trials}; {_lost(lost)} and trained again later"

    def _trained(self, number: int) -> int:
        return self._epochs[number].epoch if number in self._epochs else 0

    def refresh(self) -> None:
        """Read the store again after REFRESH_SECONDS, and print the progress after LINE_SECONDS."""
        now = time.monotonic()
        if now - self._read_at > REFRESH_SECONDS:
            self._read()
        if self._jobs and now - self._line_at > LINE_SECONDS:
            self._print_progress()
            self._line_at = now

    def _print_progress(self) -> None:
        self.print_line(self.progress_line())

    def progress_line(self) -> str:
        """The progress of the study, elapsed time and time left, in words."""
        running = len(self._running_epochs())
        words = [f"{len(self._record.done)} of {self._record.n_trials} trials done", f"{running} running"]
        words += [live_table.epochs_text(self._update()), self._elapsed(), self._left()]
        return ", ".join(words)

    def _running_epochs(self) -> dict[int, int]:
        """The trained epochs of the running trials of every command, by number."""
        elsewhere = {t.number: t.epochs for t in self._record.trials if t.state == "RUNNING"}
        return elsewhere | {number: self._trained(number) for number in self._running}

    def _update(self) -> Estimate:
        """The estimate, computed again after an event or a read."""
        if self._is_changed:
            running = self._running_epochs()
            self._estimate = estimate(self._record, running, max(self._jobs, len(running)))
            self._end = time.monotonic() + (self._estimate.seconds_left or 0.0)
            self._is_changed = False
        return self._estimate

    def seconds_left(self) -> float | None:
        """Estimated time until the study is done; None until an epoch of it has been trained."""
        return None if self._update().seconds_left is None else max(0.0, self._end - time.monotonic())

    def _elapsed(self) -> str:
        return f"elapsed {duration(time.monotonic() - self._started)}"

    def _left(self) -> str:
        if self._is_syncing:
            return "writing to MLflow"
        progress, seconds = self._update(), self.seconds_left()
        if self._is_finishing:  # the waiting trials are not started
            seconds = progress.seconds_running
        return live_table.left_text(progress, seconds, len(self._running_epochs()))

    def print_line(self, line: str) -> None:
        """Print a line on stderr, unless nobody reads it."""
        with suppress(OSError):
            typer.echo(line, err=True)


def _lost(epochs: int) -> str:
    return f"{counted(epochs, 'trained epoch')} {'is' if epochs == 1 else 'are'} lost"


class LogReporter(PlainReporter):
    """Logs the lines at level INFO, and messages as warnings."""

    def handle(self, event: Event) -> None:
        """Log finished trials and messages."""
        if isinstance(event, Message):
            logger.warning(event.text)
        else:
            super().handle(event)

    def print_line(self, line: str) -> None:
        """Log a line."""
        logger.info(line)


class MessageReporter(PlainReporter):
    """Prints messages and stops only."""

    def __enter__(self) -> Self:
        return self

    def _trial_line(self, event: TrialEnded) -> str:
        return super()._trial_line(event) if event.state == "WAITING" else ""

    def _print_progress(self) -> None:
        """Print no progress."""

    def print_line(self, line: str) -> None:
        """Print a line, unless it is empty."""
        if line:
            super().print_line(line)


class _Terminal(io.FileIO):
    """The terminal of stderr; what it does not take, for example since it was closed, is dropped."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


class RichReporter(PlainReporter):
    """A live table of the running trials, below the printed lines."""

    def __init__(self, read_record: ReadRecord, jobs: int, started: float | None = None) -> None:
        super().__init__(read_record, jobs, started)
        terminal = io.BufferedWriter(_Terminal(sys.stderr.fileno(), "w", closefd=False))
        file = io.TextIOWrapper(terminal, sys.stderr.encoding, errors="replace")
        self._console = Console(file=file, force_terminal=True)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        super().__enter__()
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the table."""
        self._live.stop()

    def print_line(self, line: str) -> None:
        """Print a line above the table."""
        self._console.print(line, highlight=False, markup=False)

    def _print_progress(self) -> None:
        """The table shows the progress."""

    def refresh(self) -> None:
        """Redraw the table."""
        super().refresh()
        rows = [self._row(number, trial) for number, trial in sorted(self._running.items())]
        table = live_table.live_table(self._record, rows, self._update(), self._elapsed(), self._left())
        self._live.update(table, refresh=True)

    def _row(self, number: int, trial: TrialStarted) -> RunningTrial:
        last = self._epochs.get(number, TrialEpoch(number, 0, None, None))
        return RunningTrial(
            label(self._record, number),
            trial.num_params,
            last.epoch,
            trial.epochs,
            last.accuracy,
            last.samples_per_second,
            live_table.rung_of(self._record, last.epoch),
            trial.node,
        )


def make_reporter(
    read_record: ReadRecord, jobs: int, mode: ProgressMode = "auto", started: float | None = None
) -> PlainReporter:
    """The reporter of a mode; ``auto`` shows the live table if stderr is a terminal."""
    if mode == "auto":
        mode = "live" if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else "plain"
    reporters = {"live": RichReporter, "plain": PlainReporter, "none": MessageReporter}
    return reporters[mode](read_record, jobs, started)
