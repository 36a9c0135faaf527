"""Results on stdout: a table, one JSON document, or CSV."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from mnist_search.cli.options import Format

Row = Mapping[str, Any]

PERCENT = {
    *("val_accuracy", "val_accuracy_on_card", "best_val_accuracy", "best_epoch", "reported_test_accuracy"),
    *("test_accuracy", "test_accuracy_on_card", "test_accuracy_mean", "test_accuracy_sd", "low", "high"),
    *("worst", "feasible_share", "near_budget_share", "probability"),
}
GROUPED = {"num_params", "parameters", "parameters_on_card", "budget", "multiply_adds", "smallest", "largest"}


def print_rows(rows: Sequence[Row], output_format: Format, columns: Sequence[str]) -> None:
    """Print rows; the table and the CSV show ``columns`` only, JSON every key."""
    match output_format:
        case "json":
            print_json(list(rows))
        case "csv":
            writer = csv.DictWriter(sys.stdout, columns, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        case "table":
            table = Table(box=box.SIMPLE, pad_edge=False)
            for name in columns:
                numeric = all(isinstance(row.get(name), int | float | None) for row in rows)
                label = name.replace("_", " ")
                table.add_column(label, justify="right" if numeric else "left", overflow="fold")
            for row in rows:
                table.add_row(*(format_value(name, row.get(name)) for name in columns))
            Console(width=None if sys.stdout.isatty() else 200).print(table)


def print_fields(document: Row, output_format: Format) -> None:
    """Print one document."""
    match output_format:
        case "json":
            print_json(document)
        case "csv":
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerows(document.items())
        case "table":
            width = max(map(len, document))
            for name, value in document.items():
                print(f"{name.replace('_', ' '):{width}}  {format_value(name, value)}")


def print_json(document: Any) -> None:
    """Print one JSON document."""
    json.dump(document, sys.stdout, indent=2, default=str)
    print()


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
    return next((show(value) for applies, show in formats if applies), str(value))
