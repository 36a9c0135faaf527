"""Verbs that show studies: studies, trials, best, explain, compare, leaderboard, report."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from typer import Argument, echo

from mnist_search.cli import options as opt
from mnist_search.cli.options import option
from mnist_search.cli.outcome import print_legend
from mnist_search.cli.output import print_fields, print_json, print_rows
from mnist_search.cli.status import load_studies, load_study, study_status
from mnist_search.errors import NotFound, UsageError
from mnist_search.files import read_text, write_file

COMPARED = ("name", "parameters", "reported_test_accuracy", "test_accuracy_mean", "val_accuracy", "kind")
"""Columns of ``compare`` that come first in a table."""

TrialColumn = Literal["number", "state", "num_params", "val_accuracy", "epochs", "seconds"]
TrialState = Literal["complete", "pruned", "fail", "running", "waiting"]

BEGIN, END = "<!-- leaderboard -->", "<!-- end of leaderboard -->"


def studies(read: opt.ReadOptions) -> None:
    """List the studies of the store."""
    columns = ("study", "budget", "trials_done", "n_trials", "best_val_accuracy", "rejected")
    rows = [
        study_status(record) | {"best_val_accuracy": record.best and record.best.val_accuracy}
        for record in load_studies(read.storage)
    ]
    print_rows(rows, read.output_format, columns)


def trials(
    study: opt.LatestStudyArgument = None,
    *,
    sort: Annotated[
        TrialColumn | None,
        option(
            "Column to sort by: val_accuracy from the highest, others from the lowest.",
            show_default="number, with --top val_accuracy",
            metavar=opt.metavar(get_args(TrialColumn)),
        ),
    ] = None,
    state: Annotated[
        TrialState | None,
        option(
            "Show trials of this state only.",
            show_default="all",
            case_sensitive=False,
            metavar=opt.metavar(get_args(TrialState)),
        ),
    ] = None,
    top: Annotated[int | None, option("Show this many trials only.", min=1)] = None,
    read: opt.ReadOptions,
) -> None:
    """List the trials of a study."""
    columns = (
        "number",
        "state",
        "num_params",
        "val_accuracy",
        "epochs",
        "rung",
        "seconds",
        "reason",
        "architecture",
    )
    record = load_study(read.storage, study)
    rows = [
        record.row(t) | {"params": dict(t.params)} for t in record.trials if state in {None, t.state.lower()}
    ]
    column = sort or ("val_accuracy" if top else "number")

    def key(row: dict[str, Any]) -> tuple[bool, Any]:
        value = row[column]
        return value is None, -value if column == "val_accuracy" and value is not None else value or 0

    # Without the key of a number, a state is compared with other texts only.
    rows.sort(key=(lambda row: row["state"]) if column == "state" else key)
    print_rows(rows[:top], read.output_format, columns)


def best(study: opt.LatestStudyArgument = None, *, read: opt.ReadOptions) -> None:
    """Show the best trial of a study."""
    record = load_study(read.storage, study)
    trial, name = record.best, record.name
    if trial is None:
        raise NotFound(f"study {name!r} has no complete trial; see mnist-search status {name}")
    document = {"study": name} | record.row(trial) | record.config.space.describe(trial.params)
    print_fields(document, read.output_format)


def explain(
    study: opt.StudyArgument,
    number: Annotated[int, Argument(metavar="trial", help="Number of the trial.", min=0)],
    read: opt.ReadOptions,
) -> None:
    """Show a trial's layers, training configuration, learning curve and why it ended."""
    from mnist_search.report.network import blocks, times

    [record] = load_studies(read.storage, study)
    trial = record.trial(number)
    if trial is None:
        raise NotFound(f"study {study!r} has no trial {number}; mnist-search trials {study} lists them")
    document = record.row(trial) | {"traceback": trial.traceback}
    rows: list[dict[str, Any]] = []
    if record.config.space.distributions.keys() <= trial.params.keys():
        config = record.config.space.decode(trial.params)
        document |= record.config.space.describe(trial.params) | {"epochs": trial.epochs}
        rows = [
            {
                "layers": block.layers,
                "output": times(block.output_shape),
                "num_params": block.num_params,
                "multiply_adds": block.multiply_adds,
            }
            for block in blocks(config.architecture)
        ]
    if read.output_format == "json":
        print_json(document | {"layers": rows, "curve": [epoch.to_dict() for epoch in trial.curve]})
        return
    print_fields(document, read.output_format)
    if rows and read.output_format == "table":
        print_legend(config.architecture)
    separate = partial(echo, nl=read.output_format == "table")
    separate("")
    print_rows(rows, read.output_format, ("layers", "output", "num_params", "multiply_adds"))
    curve = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds")
    separate("")
    print_rows([epoch.to_dict() for epoch in trial.curve], read.output_format, curve)


def compare(
    study: Annotated[list[str] | None, Argument(help="Studies.", show_default="all")] = None,
    *,
    published: Annotated[bool, option("Include networks that others published.")] = True,
    plot: Annotated[Path | None, option("HTML file for a plot of accuracy against parameters.")] = None,
    read: opt.ReadOptions,
) -> None:
    """Compare the best network of each study with the baselines and with published networks.

    reported_test_accuracy: as the authors state it, mostly of the best epoch of one run;
    best_epoch: mean of the same measure over the seeds of reproduce; val_accuracy: used for selection;
    test_accuracy_mean: last epoch, over the seeds of finalize or reproduce;
    front: Pareto front of the studies by parameters and val_accuracy;
    kind retrained: network of a baseline with the default training configuration.
    """
    from mnist_search.report import comparison

    rows = _load_rows(read.storage, study or ()) + (comparison.published_rows() if published else [])
    rows.sort(key=lambda row: row["parameters"] or 0)
    if plot is not None:
        from mnist_search.report.plots import comparison_figure

        write_file(plot, comparison_figure(rows).to_html(), "name another file with --plot")
    columns: Sequence[str] = comparison.COLUMNS
    if read.output_format == "table":  # a narrow terminal shows the first ones
        columns = tuple(dict.fromkeys((*COMPARED, *columns)))
    print_rows(rows, read.output_format, columns)


def leaderboard(
    file: Annotated[
        Path | None,
        Argument(help="Markdown file whose leaderboard is replaced.", show_default="standard output"),
    ] = None,
    storage: opt.StorageOption = opt.DEFAULT_STORAGE,
) -> None:
    """Write the leaderboard of studies and baselines, the most accurate first, with its evidence."""
    from mnist_search.report.comparison import leaderboard

    table = leaderboard(_load_rows(storage))
    if file is None:
        echo(table)
        return
    advice = "name another file"
    before, begin, rest = read_text(file, advice).partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UsageError(f"{file} has no leaderboard to replace; add the lines {BEGIN} and {END}")
    write_file(file, f"{before}{BEGIN}\n{table}\n{END}{after}", advice)


def _load_rows(storage: str, studies: Sequence[str] = ()) -> list[dict[str, Any]]:
    from mnist_search.report import comparison

    try:
        return comparison.study_rows(storage, load_studies(storage, *studies))
    except NotFound:
        if studies:
            raise
        return comparison.baseline_rows()  # there is no store yet


def report(
    study: opt.StudyArgument,
    *,
    output: Annotated[Path, option("File to write.", "--output", "-o")] = Path("report.html"),
    stores: opt.StoreOptions,
) -> None:
    """Write a study as one self-contained HTML page, and log the page to the study's MLflow run."""
    from mnist_search.report.page import log_report

    tracking, warn = stores.tracking(), partial(echo, err=True)
    log_report(stores.storage, study, stores.data_dir, output=output, tracking=tracking, warn=warn)
    echo(output)
