"""What ``run`` shows on stderr: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

import typer

from mnist_search.execution.events import Event, Message, TrialBegan, TrialEnded, TrialEpoch

if TYPE_CHECKING:
    from mnist_search.execution.supervisor import ProgressReporter
    from mnist_search.records import StudyRecord

REFRESH_SECONDS = 15.0
"""Between looks into the store for what other machines did."""


@dataclass
class _Row:
    num_params: int
    epoch: int = 0
    val_accuracy: float | None = None
    samples_per_second: float | None = None


class PlainReporter:
    """Shows a run; made once the study is open.

    Calling it with the way to the facts and the number of workers begins the show.
    """

    def __init__(self) -> None:
        self._rows: dict[int, _Row] = {}
        self._ended = 0
        self._seconds: list[float] = []
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __call__(self, record: Callable[[], StudyRecord], jobs: int) -> ProgressReporter:
        """Begin to show."""
        self._read, self._jobs = record, jobs
        self._look()
        self.say(
            f"study {self._record.name}: {len(self._record.done)} of {self._record.n_trials} trials "
            f"done, {jobs} at once"
        )
        return self

    def _look(self) -> None:
        self._record = self._read()
        self._looked = time.monotonic()

    def show(self, event: Event) -> None:
        """Something happened."""
        match event:
            case TrialBegan(number, num_params):
                self._rows[number] = _Row(num_params)
            case TrialEpoch(number, epoch, val_accuracy, speed) if number in self._rows:
                row = self._rows[number]
                row.epoch, row.val_accuracy, row.samples_per_second = epoch, val_accuracy, speed
            case TrialEnded():
                if event.number in self._rows:
                    del self._rows[event.number]
                self._ended += event.state != "WAITING"
                self._look()
                self.say(self._ending(event))
            case Message(text):
                self.say(text)

    def _ending(self, event: TrialEnded) -> str:
        trial = self._record.trial(event.number)
        best = self._record.best
        words = [
            f"trial {event.number:3} {event.state.lower() if event.state != 'WAITING' else 'put back':8}"
        ]
        if trial and trial.is_finished:
            score = f"{100 * trial.val_accuracy:.2f} %" if trial.val_accuracy else "-"
            words += [f"{score:>8}", f"{trial.num_params or 0:7,} parameters", f"{trial.epochs:3} epochs"]
            words += [f"{trial.seconds or 0:5.0f} s", f"{len(self._record.done)}/{self._record.n_trials}"]
        if best:
            words.append(f"best {100 * (best.val_accuracy or 0):.2f} % (trial {best.number})")
        if event.reason:
            words.append(event.reason)
        return "  ".join(words)

    def tick(self) -> None:
        """Time passed."""
        if time.monotonic() - self._looked > REFRESH_SECONDS:
            self._look()

    def seconds_left(self) -> float | None:
        """Until the study is full, if trials go on ending as fast as they did."""
        if not self._ended:
            return None
        left = self._record.n_trials - len(self._record.done)
        return (time.monotonic() - self._began) / self._ended * left

    def say(self, line: str) -> None:
        """A line that stays."""
        typer.echo(line, err=True)

    def close(self) -> None:
        """The run is over."""


class RichReporter(PlainReporter):
    """A table that is drawn anew in place, under the lines that stay."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console  # only on a terminal
        from rich.live import Live

        self._console = Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def __call__(self, record: Callable[[], StudyRecord], jobs: int) -> ProgressReporter:
        """Begin to show."""
        super().__call__(record, jobs)
        self._live.start()
        return self

    def show(self, event: Event) -> None:
        """Something happened."""
        super().show(event)
        self._draw()

    def tick(self) -> None:
        """Time passed."""
        super().tick()
        self._draw()

    def say(self, line: str) -> None:
        """A line that stays, above the table."""
        self._console.print(line, highlight=False, markup=False)

    def close(self) -> None:
        """Take the table away."""
        self._live.stop()

    def _draw(self) -> None:
        from rich import box  # only on a terminal
        from rich.table import Table

        budget, epochs = self._record.config.budget, self._record.config.space.epochs
        table = Table(box=box.SIMPLE_HEAD, title=self._title(), title_justify="left", title_style="bold")
        for name in ("trial", f"parameters of {budget:,}", "epoch", "validation", "samples/s"):
            table.add_column(name, justify="right")
        for number, row in sorted(self._rows.items()):
            score = f"{100 * row.val_accuracy:.2f} %" if row.val_accuracy is not None else "-"
            speed = f"{row.samples_per_second:,.0f}" if row.samples_per_second else "-"
            table.add_row(str(number), f"{row.num_params:,}", f"{row.epoch}/{epochs}", score, speed)
        self._live.update(table, refresh=True)

    def _title(self) -> str:
        record, best, left = self._record, self._record.best, self.seconds_left()
        words = [
            f"{record.name}: {len(record.done)}/{record.n_trials} trials",
            f"{record.rejected} rejected",
        ]
        if best:
            words.append(f"best {100 * (best.val_accuracy or 0):.2f} % with {best.num_params:,} parameters")
        if left is not None:
            words.append(f"about {left / 60:.0f} min left")
        return ", ".join(words)


def make_reporter() -> PlainReporter:
    """The screen for this stderr."""
    plain = not sys.stderr.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return PlainReporter() if plain else RichReporter()
