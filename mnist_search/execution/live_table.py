"""What a live view shows: the running trials as a table, a bar over epochs, elapsed time and time left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mnist_search.execution.estimate import Estimate, duration
from mnist_search.records import FinalsRecord, StudyRecord, TrialRecord, percent


@dataclass(frozen=True, slots=True)
class RunningTrial:
    """A row of the table; ``epoch`` of ``epochs`` are trained."""

    label: str
    num_params: int
    epoch: int
    epochs: int
    accuracy: float | None
    samples_per_second: float | None
    rung: str | None = None
    node: str | None = None


def label(record: StudyRecord | FinalsRecord, number: int) -> str:
    """A trial as the user knows it: its number, or the network and the seed of a final trial."""
    trial = record.trial(number)
    return f"{trial.task.name}, seed {trial.task.seed}" if trial and trial.task else f"trial {number}"


def stored_row(record: StudyRecord | FinalsRecord, trial: TrialRecord) -> RunningTrial:
    """A running trial as the store has it."""
    epochs = record.config.space.epochs if isinstance(record, StudyRecord) else 0
    last = trial.curve[-1] if trial.curve else None
    return RunningTrial(
        label(record, trial.number),
        trial.num_params or 0,
        trial.epochs,
        trial.task.training.epochs if trial.task else epochs,
        last.val_accuracy if last else None,
        last.samples_per_second if last else None,
        rung_of(record, trial.epochs),
    )


def rung_of(record: StudyRecord | FinalsRecord, epochs: int) -> str | None:
    """The rung of a trial of so many epochs; None in a study without screening, and in finals."""
    return record.rung(epochs) if isinstance(record, StudyRecord) else None


def live_table(
    record: StudyRecord | FinalsRecord,
    rows: Sequence[RunningTrial],
    estimate: Estimate,
    elapsed: str,
    left: str,
    note: str = "",
) -> RenderableType:
    """The view; ``elapsed`` and ``left`` are times in words, ``note`` is a line below the table."""
    parameters, accuracy = "parameters", ["accuracy"]
    if isinstance(record, StudyRecord):
        parameters, accuracy = f"parameters of {record.config.budget:,}", ["validation"]
    elif all(row.accuracy is None for row in rows):  # most final trials are evaluated at the end only
        accuracy = []
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("trial", overflow="ellipsis", no_wrap=True)
    has_rungs = any(row.rung for row in rows)
    has_nodes = any(row.node for row in rows)
    for name in (parameters, "epoch", *(["rung"] if has_rungs else []), *accuracy, "images/s"):
        table.add_column(name, justify="right", no_wrap=True)
    if has_nodes:
        table.add_column("node", overflow="ellipsis", no_wrap=True)
    for row in rows:
        speed = f"{row.samples_per_second:,.0f}" if row.samples_per_second else "-"
        rung, node = [row.rung] if has_rungs else [], [row.node] if has_nodes else []
        epoch = f"{row.epoch}/{row.epochs}"
        table.add_row(
            row.label,
            f"{row.num_params:,}",
            epoch,
            *rung,
            *(percent(row.accuracy) for _ in accuracy),
            speed,
            *node,
        )
    line = Table.grid(padding=(0, 2))
    line.expand = True
    line.add_column(ratio=1)
    line.add_row(
        ProgressBar(total=1, completed=estimate.share),
        *(Text(words, no_wrap=True) for words in (epochs_text(estimate), elapsed, left)),
    )
    below = [Text(note)] if note else []
    return Group(Text(title(record), style="bold"), line, *([table] if rows else []), *below)


def title(record: StudyRecord | FinalsRecord) -> str:
    """The study, its trials that are done and its best trial, in words."""
    words = [f"{record.name}: {len(record.done)} of {record.n_trials} trials done"]
    if isinstance(record, StudyRecord):
        if record.rejected:
            words.append(f"{record.rejected} proposals rejected")
        if best := record.best:
            words.append(f"best {percent(best.val_accuracy)} with {best.num_params:,} parameters")
    return ", ".join(words)


def epochs_text(estimate: Estimate) -> str:
    """Trained and expected epochs in words."""
    return f"{estimate.trained} of {'' if estimate.is_exact else 'about '}{estimate.total:.0f} epochs"


def left_text(estimate: Estimate, seconds_left: float | None, n_running: int) -> str:
    """The time left in words: never zero while trials run, and none once the study is done."""
    if not n_running and not estimate.left:
        return "done"
    if seconds_left is None:
        return "time left: unknown"
    if seconds_left < 60:
        return "less than 1 min left"
    if seconds_left < 10 * 60:
        return f"about {round(seconds_left / 30) / 2:g} min left"
    return f"about {duration(seconds_left)} left"


def listed(labels: Sequence[str]) -> str:
    """Trials in words, such as ``trial 3, trial 4 and trial 7``."""
    return " and ".join(filter(None, (", ".join(labels[:-1]), *labels[-1:])))
