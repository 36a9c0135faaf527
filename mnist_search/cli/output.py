"""Results on stdout: a table, one JSON document, or CSV."""

from __future__ import annotations

import csv
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console

from mnist_search.cli.options import Format
from mnist_search.cli.table import SHORTEST_NAME, SHORTEST_TEXT, Column, fitting_columns, make_table
from mnist_search.errors import masked

Row = Mapping[str, Any]

PERCENT = {
    *(
        "val_accuracy",
        "val_accuracy_mean",
        "val_accuracy_on_card",
        "best_val_accuracy",
        "best_epoch",
        "reported_test_accuracy",
    ),
    *("test_accuracy", "test_accuracy_on_card", "test_accuracy_mean", "test_accuracy_sd", "low", "high"),
    *("train_accuracy", "worst", "feasible_share", "near_budget_share", "probability"),
}
GROUPED = {"num_params", "parameters", "parameters_on_card", "budget", "multiply_adds", "smallest", "largest"}


class OutputConsole(Console):
    """A console that leaves a closed pipe to the caller; Rich exits with code 1."""

    def on_broken_pipe(self) -> None:
        """Raise the error."""
        raise BrokenPipeError


def print_rows(rows: Sequence[Row], output_format: Format, columns: Sequence[str]) -> None:
    """Print rows; the table and the CSV show ``columns`` only, JSON every key."""
    match output_format:
        case "json":
            print_json(list(rows))
        case "csv":
            writer = csv.DictWriter(sys.stdout, columns, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows({name: _csv_value(row.get(name)) for name in columns} for row in rows)
        case "table":
            _print_table(rows, columns)


def _print_table(rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Print a table that fits the terminal, or 80 columns, or the environment variable COLUMNS."""
    width = shutil.get_terminal_size().columns
    every = [
        Column(
            name,
            [format_value(name, row.get(name)) for row in rows],
            is_text=any(isinstance(row.get(name), str) for row in rows),
            shortest=SHORTEST_NAME if name == columns[0] else SHORTEST_TEXT,
        )
        for name in columns
    ]
    shown = fitting_columns(every, width)
    OutputConsole(width=width).print(make_table(shown, width))
    if hidden := [column.label for column in every if column not in shown and not column.is_empty]:
        print(f"not shown for lack of space: {', '.join(hidden)}; see --format csv", file=sys.stderr)


def print_fields(document: Row, output_format: Format) -> None:
    """Print one document."""
    match output_format:
        case "json":
            print_json(document)
        case "csv":
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerows((name, _csv_value(value)) for name, value in _flattened(document))
        case "table":
            width = max(map(len, document))
            for name, value in document.items():
                print(f"{name.replace('_', ' '):{width}}  {format_value(name, value)}")


def print_json(document: Any) -> None:
    """Print one JSON document; numbers that JSON lacks are null."""
    json.dump(_json_value(document), sys.stdout, indent=2, default=str)
    print()


def _json_value(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case str():
            return masked(value)
        case Mapping():
            return {key: _json_value(each) for key, each in value.items()}
        case list() | tuple():
            return [_json_value(each) for each in value]
    return value


def _flattened(document: Row) -> Iterator[tuple[str, Any]]:
    """The values of a document; those of a nested one as ``best.number``."""
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{key}", each) for key, each in _flattened(value))
        else:
            yield name, value


def _csv_value(value: Any) -> Any:
    """A value as a cell: a list as JSON."""
    if isinstance(value, list | tuple | Mapping):
        return json.dumps(_json_value(value))
    return masked(value) if isinstance(value, str) else value


def format_value(name: str, value: Any) -> str:
    """A value as the table shows it; its name decides on %, and on thousands separators."""
    formats: list[tuple[bool, Callable[[Any], str]]] = [
        (value is None, lambda _: "-"),
        (isinstance(value, bool), lambda v: "yes" if v else "no"),
        (name in PERCENT, lambda v: f"{100 * v:.2f} %"),
        (name in GROUPED, lambda v: f"{v:,}"),
        (isinstance(value, float), lambda v: f"{v:.4g}"),
        (isinstance(value, Mapping), lambda v: ", ".join(f"{k} {format_value(k, x)}" for k, x in v.items())),
    ]
    return masked(next((show(value) for applies, show in formats if applies), str(value)))
