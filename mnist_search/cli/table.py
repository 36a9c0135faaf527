"""Tables that fit the terminal: long texts are shortened, and the last columns are left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

GAP = 2
"""Characters between two columns."""

SHORTEST_TEXT, SHORTEST_NAME = 20, 26
"""Widths to which a text, and a text in the first column, may be shortened."""


LABELS = {"low": "95_% from", "high": "95_% to"}
"""Headings of columns whose names do not say enough."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of formatted values; long values of a ``text`` column are shortened, others never."""

    name: str
    cells: Sequence[str]
    is_text: bool
    shortest: int = SHORTEST_TEXT

    @property
    def label(self) -> str:
        """The heading, which may take several lines."""
        return LABELS.get(self.name, self.name).replace("_", " ")

    @property
    def width(self) -> int:
        """The width at which no value is shortened."""
        return max(map(len, [*self.label.split(), *self.cells]))

    @property
    def least_width(self) -> int:
        """The width below which the column is left out."""
        return min(self.width, self.shortest) if self.is_text else self.width

    @property
    def is_empty(self) -> bool:
        """Whether no row has a value."""
        return not set(self.cells) - {"-"}


def fitting_columns(columns: Sequence[Column], width: int) -> list[Column]:
    """The columns that fit: without the empty ones, then without the last ones; the first is always there."""
    shown = list(columns)
    while len(shown) > 1 and sum(c.least_width + GAP for c in shown) - GAP > width:
        filled = [column for column in shown[1:] if not column.is_empty]
        shown = [shown[0], *filled] if len(filled) < len(shown) - 1 else shown[:-1]
    return shown


def make_table(columns: Sequence[Column], width: int) -> Table:
    """A table of columns that fit; the texts share what is left of the width."""
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, GAP - 1, 0, 0), show_edge=False)
    left = width - sum(c.least_width + GAP for c in columns) + GAP
    for column in columns:
        given = min(column.width - column.least_width, max(0, left))
        left -= given
        table.add_column(
            column.label,
            justify="left" if column.is_text else "right",
            width=column.least_width + given,
            overflow="ellipsis",
        )
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in row))
    return table
