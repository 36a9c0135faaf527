"""Verbs that show studies: status, studies, trials, best, explain, compare, leaderboard, report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, echo

from mnist_search.cli import options as opt
from mnist_search.cli.options import option
from mnist_search.cli.output import print_fields, print_json, print_rows
from mnist_search.errors import DiskError, NotFound, UsageError

if TYPE_CHECKING:
    from mnist_search.records import StudyRecord

BEGIN, END = "<!-- leaderboard -->", "<!-- end of leaderboard -->"


def load_studies(storage: str, *names: str) -> list[StudyRecord]:
    """The named studies, or every study of the store; NotFound without a store or such a study."""
    from mnist_search.storage import database, studies

    store = database.Store.open(storage)
    selected = [studies.load(store, name) for name in names] or studies.mnist_search_studies(store)
    return [studies.study_record(store, study) for study in selected]


def status(
    study: Annotated[str | None, Argument(help="Name of the study.", show_default="the latest")] = None,
    *,
    read: opt.ReadOptions,
) -> None:
    """Show the progress of a study: its trials by state, its best trial."""
    records = load_studies(read.storage, *([study] if study else []))
    if not records:
        raise NotFound("the store has no studies; start one with mnist-search run --budget 8000")
    print_fields(study_status(max(records, key=_last_start)), read.output_format)


def _last_start(record: StudyRecord) -> float:
    return max((trial.started.timestamp() for trial in record.trials if trial.started), default=0.0)


def study_status(record: StudyRecord) -> dict[str, Any]:
    """Progress of a study, as one document."""
    states = [trial.state for trial in record.slots]
    best = record.best and record.row(record.best)
    return {
        "study": record.name,
        "budget": record.config.budget,
        "n_trials": record.n_trials,
        "trials_done": len(record.done),
        "complete": states.count("COMPLETE"),
        "pruned": states.count("PRUNED"),
        "failed": states.count("FAIL"),
        "running": states.count("RUNNING"),
        "waiting": states.count("WAITING"),
        "rejected": record.rejected,
        "trained_epochs": record.trained_epochs,
        "best": best and {key: best[key] for key in ("number", "val_accuracy", "num_params", "architecture")},
    }


def studies(read: opt.ReadOptions) -> None:
    """List the studies of the store."""
    columns = ("study", "budget", "trials_done", "n_trials", "best_val_accuracy", "rejected")
    rows = [
        study_status(record) | {"best_val_accuracy": record.best and record.best.val_accuracy}
        for record in load_studies(read.storage)
    ]
    print_rows(rows, read.output_format, columns)


def trials(study: opt.StudyArgument, read: opt.ReadOptions) -> None:
    """List the trials of a study."""
    columns = ("number", "state", "num_params", "val_accuracy", "epochs", "seconds", "reason", "architecture")
    [record] = load_studies(read.storage, study)
    print_rows([record.row(trial) for trial in record.trials], read.output_format, columns)


def best(study: opt.StudyArgument, read: opt.ReadOptions) -> None:
    """Show the best trial of a study."""
    [record] = load_studies(read.storage, study)
    trial = record.best
    if trial is None:
        raise NotFound(f"study {study!r} has no complete trial; see mnist-search status {study}")
    document = {"study": study} | record.row(trial) | record.config.space.describe(trial.params)
    print_fields(document, read.output_format)


def explain(
    study: opt.StudyArgument,
    number: Annotated[int, Argument(metavar="trial", help="Number of the trial.", min=0)],
    read: opt.ReadOptions,
) -> None:
    """Show a trial's layers, training configuration, learning curve and why it ended."""
    [record] = load_studies(read.storage, study)
    trial = record.trial(number)
    if trial is None:
        raise NotFound(f"study {study!r} has no trial {number}; mnist-search trials {study} lists them")
    document = record.row(trial) | {"traceback": trial.traceback}
    layers: list[dict[str, Any]] = []
    if record.config.space.distributions.keys() <= trial.params.keys():
        config = record.config.space.decode(trial.params)
        document |= record.config.space.describe(trial.params) | {"training": str(config.training)}
        layers = [
            {
                "layer": repr(cost.layer),
                "output": "x".join(map(str, cost.output_shape)),
                "num_params": cost.num_params,
                "multiply_adds": cost.multiply_adds,
            }
            for cost in config.architecture.costs()
        ]
    if read.output_format == "json":
        print_json(document | {"layers": layers, "curve": [epoch.to_dict() for epoch in trial.curve]})
        return
    print_fields(document, read.output_format)
    print_rows(layers, read.output_format, ("layer", "output", "num_params", "multiply_adds"))
    curve = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds")
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

        with _disk_errors(plot, "name another file with --plot"):
            plot.write_text(comparison_figure(rows).to_html())
    print_rows(rows, read.output_format, comparison.COLUMNS)


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
    with _disk_errors(file, "name another file"):
        before, begin, rest = file.read_text().partition(BEGIN)
        _, end, after = rest.partition(END)
        if not (begin and end):
            raise UsageError(f"{file} has no leaderboard to replace; add the lines {BEGIN} and {END}")
        file.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")


def _load_rows(storage: str, studies: Sequence[str] = ()) -> list[dict[str, Any]]:
    from mnist_search.report import comparison

    try:
        return comparison.study_rows(storage, load_studies(storage, *studies))
    except NotFound:
        if studies:
            raise
        return comparison.baseline_rows()  # there is no store yet


@contextmanager
def _disk_errors(file: Path, advice: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DiskError(f"cannot write {file}: {error}; {advice}") from error


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
