"""The verb ``leaderboard``: the table of experiments/README.md, from the stores and never typed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mnist_search.cli.compare import our_rows
from mnist_search.cli.options import DEFAULT_STORAGE, StorageOption
from mnist_search.errors import DiskError, UsageError

BEGIN, END = "<!-- leaderboard -->", "<!-- end of leaderboard -->"

HEAD = """| network | parameters | accuracy | seeds | measured how |
|---|--:|--:|--:|---|"""


def leaderboard(
    file: Annotated[
        Path | None, typer.Argument(help="Markdown file whose leaderboard is replaced; printed by default.")
    ] = None,
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """Write the leaderboard: studies and seeds, the most accurate first, each with its evidence."""
    table = "\n".join([HEAD, *_lines(our_rows(storage))])
    if file is None:
        typer.echo(table)
        return
    try:
        text = file.read_text()
        before, marked, rest = text.partition(BEGIN)
        _, ended, after = rest.partition(END)
        if not (marked and ended):
            raise UsageError(f"{file} has no place for a leaderboard: it stands between {BEGIN} and {END}")
        file.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")
    except OSError as error:
        raise DiskError(f"cannot write {file}: {error}") from error


def _lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in sorted(rows, key=_rank):
        accuracy, how = _evidence(row)
        yield f"| {row['name']} | {row['parameters'] or 0:,} | {accuracy} | {row['n_seeds'] or 1} | {how} |"


def _rank(row: Mapping[str, Any]) -> tuple[int, float]:
    """Test means first, then validation, then claims; the higher first."""
    for tracking_config, name in enumerate(("test_accuracy_mean", "val_accuracy", "claimed_test_accuracy")):
        if row[name] is not None:
            return tracking_config, -row[name]
    return 3, 0.0


def _evidence(row: Mapping[str, Any]) -> tuple[str, str]:
    """An accuracy, and where it is from."""
    if row["test_accuracy_mean"] is not None:
        spread = "" if row["low"] is None else f" ({100 * row['low']:.2f} to {100 * row['high']:.2f})"
        how = (
            f"test, last of {row['epochs']} epochs, 95 % interval of the mean; worst {_percent(row['worst'])}"
        )
        how += f", {row['seconds']:.0f} s a training; {row['device']}"
        if row["kind"] == "seed":
            how += f"; best epoch {_percent(row['best_epoch'])}, claimed {_percent(row['claimed_test_accuracy'])}"
        return f"{100 * row['test_accuracy_mean']:.3f} %{spread}", how
    if row["kind"] == "study":
        return _percent(
            row["val_accuracy"]
        ), f"validation, best of {row['trials']} trials, {row['epochs']} epochs"
    return _percent(row["claimed_test_accuracy"]), f"claimed: {row['claim']}"


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.2f} %"
