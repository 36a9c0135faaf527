"""Verbs that put studies, baselines and published networks side by side: compare, leaderboard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mnist_search.cli.options import DEFAULT_STORAGE, Format, FormatOption, StorageOption
from mnist_search.cli.output import print_rows
from mnist_search.cli.show import load_studies
from mnist_search.errors import DiskError, NotFound, UsageError

BEGIN, END = "<!-- leaderboard -->", "<!-- end of leaderboard -->"


def compare(
    study: Annotated[list[str] | None, typer.Argument(help="Studies.", show_default="all")] = None,
    published: Annotated[
        bool, typer.Option("--published/--no-published", help="Include networks that others published.")
    ] = True,
    plot: Annotated[
        Path | None, typer.Option(help="HTML file for a plot of accuracy against parameters.")
    ] = None,
    output_format: FormatOption = Format.TABLE,
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """Compare the best network of each study with the baselines and with published networks.

    reported_test_accuracy: as the authors state it, mostly of the best epoch of one run;
    best_epoch: mean of the same measure over the seeds of reproduce; val_accuracy: used for selection;
    test_accuracy_mean: last epoch, over the seeds of finalize or reproduce;
    front: Pareto front of the studies by parameters and val_accuracy;
    kind retrained: network of a baseline with the default training configuration.
    """
    from mnist_search.report import comparison

    rows = _load_rows(storage, study) + (comparison.published_rows() if published else [])
    rows.sort(key=lambda row: row["parameters"] or 0)
    if plot is not None:
        _write_plot(plot, rows)
    print_rows(rows, output_format, comparison.COLUMNS)


def leaderboard(
    file: Annotated[
        Path | None,
        typer.Argument(help="Markdown file whose leaderboard is replaced.", show_default="standard output"),
    ] = None,
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """Write the leaderboard of studies and baselines, the most accurate first, with its evidence."""
    from mnist_search.report.comparison import leaderboard

    table = leaderboard(_load_rows(storage))
    if file is None:
        typer.echo(table)
        return
    try:
        before, begin, rest = file.read_text().partition(BEGIN)
        _, end, after = rest.partition(END)
        if not (begin and end):
            raise UsageError(f"{file} has no leaderboard to replace; add the lines {BEGIN} and {END}")
        file.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")
    except OSError as error:
        raise DiskError(f"cannot write {file}: {error}; name another file") from error


def _load_rows(storage: str, studies: list[str] | None = None) -> list[dict[str, Any]]:
    from mnist_search.report import comparison

    try:
        return comparison.study_rows(storage, load_studies(storage, studies))
    except NotFound:
        if studies:
            raise
        return comparison.baseline_rows()  # there is no store yet


def _write_plot(file: Path, rows: list[dict[str, Any]]) -> None:
    from mnist_search.report.plots import comparison_figure

    try:
        file.write_text(comparison_figure(rows).to_html())
    except OSError as error:
        raise DiskError(f"cannot write {file}: {error}; name another file with --plot") from error
