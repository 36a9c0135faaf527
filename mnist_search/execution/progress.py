"""Progress of a run on stderr: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import logging
import os
import sys
import time
from contextlib import suppress
from typing import Any, Self

import typer
from optuna.exceptions import StorageInternalError
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from mnist_search.execution.config import ReadRecord
from mnist_search.execution.events import Event, Message, TrialEnded, TrialEpoch, TrialStarted
from mnist_search.execution.supervisor import ProgressReporter
from mnist_search.records import FinalsRecord, StudyRecord, percent
from mnist_search.storage.database import retry

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 15.0
"""Interval of reads of the store, which other machines may write."""


class PlainReporter(ProgressReporter):
    """Prints a line per finished trial."""

    def __init__(self, read_record: ReadRecord, jobs: int) -> None:
        self._read_record, self._jobs = read_record, jobs
        self._running: dict[int, TrialStarted] = {}
        self._epochs: dict[int, TrialEpoch] = {}
        self._ended = 0
        self._started = time.monotonic()
        self._record = retry(read_record)
        self._read_at = time.monotonic()

    def __enter__(self) -> Self:
        done, n_trials = len(self._record.done), self._record.n_trials
        self.print_line(f"study {self._record.name}: {done} of {n_trials} trials done, --jobs {self._jobs}")
        return self

    def __exit__(self, *error: object) -> None:
        """Plain lines need no cleanup."""

    def _read(self) -> None:
        with suppress(SQLAlchemyError, StorageInternalError):  # locked; the display shows what it has
            self._record = self._read_record()
        self._read_at = time.monotonic()

    def handle(self, event: Event) -> None:
        """Update the rows and print finished trials and messages."""
        match event:
            case TrialStarted(number):
                self._running[number] = event
                self._epochs.pop(number, None)  # of a crashed attempt
                if isinstance(self._record, FinalsRecord) and self._record.trial(number) is None:
                    self._read()
            case TrialEpoch(number):
                self._epochs[number] = event
            case TrialEnded(number):
                self._running.pop(number, None)
                self._epochs.pop(number, None)
                self._ended += event.state != "WAITING"
                self._read()
                self.print_line(self._trial_line(event))
            case Message(text):
                self.print_line(text)

    def _label(self, number: int) -> str:
        trial = self._record.trial(number)
        return f"{trial.task.name}, seed {trial.task.seed}" if trial and trial.task else f"trial {number:3}"

    def _trial_line(self, event: TrialEnded) -> str:
        trial = self._record.trial(event.number)
        state = "released" if event.state == "WAITING" else event.state.lower()
        words = [f"{self._label(event.number)} {state:8}"]
        if trial and trial.is_finished:
            accuracy = trial.test_accuracy if trial.task else trial.val_accuracy
            words += [f"{percent(accuracy):>8}", f"{trial.num_params or 0:7,} parameters"]
            words += [f"{trial.epochs:3} epochs", f"{trial.seconds or 0:5.0f} s"]
            words += [f"{len(self._record.done)}/{self._record.n_trials}"]
        if isinstance(self._record, StudyRecord) and (best := self._record.best):
            words.append(f"best {percent(best.val_accuracy)} (trial {best.number})")
        if event.reason:
            words.append(event.reason)
        return "  ".join(words)

    def refresh(self) -> None:
        """Read the store again after REFRESH_SECONDS."""
        if time.monotonic() - self._read_at > REFRESH_SECONDS:
            self._read()

    def seconds_left(self) -> float | None:
        """Estimated time until the study is done, at the mean rate of this run; None without a trial."""
        if not self._ended:
            return None
        left = self._record.n_trials - len(self._record.done)
        return (time.monotonic() - self._started) / self._ended * left

    def print_line(self, line: str) -> None:
        """Print a line on stderr, unless nobody reads it."""
        with suppress(OSError):
            typer.echo(line, err=True)


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


class _Terminal(io.FileIO):
    """The terminal of stderr; what it does not take, for example since it was closed, is dropped."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


class RichReporter(PlainReporter):
    """A live table of the running trials, below the printed lines."""

    def __init__(self, read_record: ReadRecord, jobs: int) -> None:
        super().__init__(read_record, jobs)
        terminal = io.BufferedWriter(_Terminal(sys.stderr.fileno(), "w", closefd=False))
        self._console = Console(file=io.TextIOWrapper(terminal, sys.stderr.encoding))
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

    def refresh(self) -> None:
        """Redraw the table."""
        super().refresh()
        is_search = isinstance(self._record, StudyRecord)
        parameters, data = "parameters", "test"
        if isinstance(self._record, StudyRecord):
            parameters, data = f"parameters of {self._record.config.budget:,}", "validation"
        table = Table(box=box.SIMPLE_HEAD, title=self._title(), title_justify="left", title_style="bold")
        for name in ("trial", parameters, "epoch", data, "samples/s"):
            table.add_column(name, justify="right")
        for number, trial in sorted(self._running.items()):
            last = self._epochs.get(number, TrialEpoch(number, 0, None, None))
            speed = f"{last.samples_per_second:,.0f}" if last.samples_per_second else "-"
            label = str(number) if is_search else self._label(number)
            epoch = f"{last.epoch}/{trial.epochs}"
            table.add_row(label, f"{trial.num_params:,}", epoch, percent(last.accuracy), speed)
        self._live.update(table, refresh=True)

    def _title(self) -> str:
        record, left = self._record, self.seconds_left()
        words = [f"{record.name}: {len(record.done)}/{record.n_trials} trials"]
        if isinstance(record, StudyRecord):
            words.append(f"{record.rejected} rejected")
            if best := record.best:
                words.append(f"best {percent(best.val_accuracy)} with {best.num_params:,} parameters")
        if left is not None:
            words.append(f"about {left / 60:.0f} min left")
        return ", ".join(words)


def make_reporter(read_record: ReadRecord, jobs: int) -> PlainReporter:
    """The reporter for this stderr."""
    is_plain = not sys.stderr.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return (PlainReporter if is_plain else RichReporter)(read_record, jobs)
