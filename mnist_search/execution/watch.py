"""The live view of a study, or of finals, that another command trains, read from the store."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias, TypeVar

from rich.console import Console
from rich.live import Live

from mnist_search.execution import live_table
from mnist_search.execution.estimate import Estimate, duration, estimate
from mnist_search.execution.live_table import RunningTrial, left_text, stored_row
from mnist_search.records import FinalsRecord, StudyRecord, TrialRecord

AnyRecord: TypeAlias = StudyRecord | FinalsRecord
Record = TypeVar("Record", StudyRecord, FinalsRecord)

READ_SECONDS = 2.0
"""Interval of reads of the store."""

LINE_SECONDS = 50.0
"""Interval of lines where no table can be shown."""


def watch(
    read: Callable[[], tuple[Record, set[int]]],
    console: Console,
    command: str,
    read_seconds: float = READ_SECONDS,
) -> Record:
    """Show a study until it is done; the study as read last.

    Args:
        read: reads the study, and the ids of the trials that a worker trains.
        command: continues the study, for the case that no worker trains a trial.
        console: of stdout; a line per minute and finished trial is printed if it is no terminal.
        read_seconds: interval of the reads.
    """
    show = _LiveView(console, command) if console.is_terminal else _Lines(console, command)
    with show:
        while True:
            record, active = read()
            show.update(record, [t for t in record.trials if t.state == "RUNNING" and t.trial_id in active])
            if len(record.done) >= record.n_trials:
                return record
            time.sleep(read_seconds)


class _Lines:
    """A line per finished trial, and at least one a minute."""

    def __init__(self, console: Console, command: str) -> None:
        self._console, self._command = console, command
        self._n_done, self._line_at = -1, 0.0

    def __enter__(self) -> None:
        """A line needs no preparation."""

    def __exit__(self, *error: object) -> None:
        """Lines stay."""

    def update(self, record: AnyRecord, running: list[TrialRecord]) -> None:
        """Print a line if a trial has finished or a minute has passed."""
        if len(record.done) == self._n_done and time.monotonic() - self._line_at < LINE_SECONDS:
            return
        progress, left = _progress(record, running)
        words = [live_table.title(record), f"{len(running)} running", live_table.epochs_text(progress)]
        line = ", ".join([*words, _since_start(record), left]) + _note(record, running, self._command, "; ")
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)
        self._n_done, self._line_at = len(record.done), time.monotonic()


class _LiveView:
    """The live table."""

    def __init__(self, console: Console, command: str) -> None:
        self._command = command
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def update(self, record: AnyRecord, running: list[TrialRecord]) -> None:
        """Draw the table."""
        rows: list[RunningTrial] = [stored_row(record, trial) for trial in running]
        progress, left = _progress(record, running)
        note = _note(record, running, self._command)
        table = live_table.live_table(record, rows, progress, _since_start(record), left, note)
        self._live.update(table, refresh=True)


def _progress(record: AnyRecord, running: list[TrialRecord]) -> tuple[Estimate, str]:
    """The estimate, and the time left in words."""
    epochs = {trial.number: trial.epochs for trial in running}
    progress = estimate(record, epochs, max(1, len(running)))
    is_waiting = not running and len(record.done) < record.n_trials
    return progress, "not running" if is_waiting else left_text(progress, progress.seconds_left, len(running))


def _note(record: AnyRecord, running: list[TrialRecord], command: str, separator: str = "") -> str:
    if running or len(record.done) >= record.n_trials:
        return ""
    return f"{separator}no worker trains a trial; continue with: {command}"


def _since_start(record: AnyRecord) -> str:
    """The time since the first trial started, in words; the study may have been stopped meanwhile."""
    started = min((trial.started.timestamp() for trial in record.trials if trial.started), default=None)
    return "not started" if started is None else f"started {duration(time.time() - started)} ago"
