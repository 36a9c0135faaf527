"""A study as one HTML page that loads nothing from the network."""

import logging
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from optuna import Study
from sqlalchemy.exc import SQLAlchemyError

from mnist_search import __version__
from mnist_search.errors import NotFound, UnusableConfiguration, first_line
from mnist_search.evaluation.champion import champion
from mnist_search.evaluation.statistics import final_rows
from mnist_search.export.inference import evaluation_digits
from mnist_search.files import write_file
from mnist_search.records import StudyRecord, percent
from mnist_search.report.comparison import published_rows, study_rows
from mnist_search.report.error_analysis import confusion_rows, mistakes
from mnist_search.report.network import blocks, drawing, notation, times
from mnist_search.report.plots import accuracy_figure, as_html
from mnist_search.report.result import study_result
from mnist_search.report.study_plots import (
    COORDINATES,
    COORDINATES_OF_FEW,
    curves_figure,
    displayed_study,
    history_figure,
    importance_figure,
    importances,
    parallel_figure,
    varying_params,
)
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store
from mnist_search.storage.finals import name_of_finals
from mnist_search.storage.tracked import TrackedStudy
from mnist_search.tracking.config import TrackingConfig
from mnist_search.training.evaluate import evaluate
from mnist_search.training.model import load_network

logger = logging.getLogger(__name__)


def log_report(
    storage: str,
    study: str,
    data_dir: Path | None,
    *,
    output: Path | None = None,
    tracking: TrackingConfig | None = None,
    warn: Callable[[str], None],
) -> None:
    """Write the page of a study to a file, log it to the study's MLflow run, or both.

    MLflow's runs of a killed search or of killed finals are ended first.

    ``data_dir`` is the folder of the MNIST files, None for the cache; ``warn`` reports that MLflow is
    unreachable.

    Raises:
        DiskError: the file cannot be written; and the errors of ``render_report``.
    """
    store = Store.open(storage, write=tracking is not None)
    html = render_report(store, study, data_dir)
    if output is not None:
        write_file(output, html, "name another file with --output")
    if tracking is None:
        return
    from mlflow.exceptions import MlflowException  # MLflow, a second to import

    from mnist_search.tracking.killed import end_runs_of_killed
    from mnist_search.tracking.setup import open_tracking

    tracked = TrackedStudy(store, study)
    try:
        for name in (study, name_of_finals(study)):
            end_runs_of_killed(store, name, tracking, data_dir, warn)
        with tracked.lock(60.0):  # the sync process of another command may hold it
            opened = open_tracking(tracking, tracked)
            opened.client.log_text(opened.parent_run_id, html, "report.html")
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        warn(f"no report in MLflow ({first_line(error)}); write it with mnist-search report {study}")


def render_report(store: Store, study: str, data_dir: Path | None) -> str:
    """The page: result, finals, figures, network, trials, and mistakes of the best network.

    The best network is evaluated on the test set only if finals already did so.

    Raises:
        NotFound: no such study, or no complete trial.
        Unavailable: no images to evaluate the network on.
    """
    search_study = SearchStudy.open(store, study)
    record = search_study.record()
    if record.best is None:
        raise NotFound(f"study {study!r} has no complete trial to report; see mnist-search status {study}")
    finals = final_rows(store, record) or []
    has_templates = "fixed_params" in search_study.study.get_trials(deepcopy=False)[0].system_attrs
    result = study_result(store, record, finals, has_templates=has_templates)
    displayed = displayed_study(search_study.study)
    shares = importances(displayed)
    return _template().render(
        record=record,
        result=result,
        finals=finals,
        figures=_figures(store, displayed, record, shares),
        params=record.config.space.describe(result.trial.params),
        blocks=blocks(result.config.architecture),
        notation=notation(result.config.architecture),
        all_notations=_all_notations(record),
        drawing=drawing(result.config.architecture),
        version=__version__,
        today=time.strftime("%Y-%m-%d"),
        **_mistakes(store, study, data_dir),
    )


def _template() -> Template:
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters |= {"percent": percent, "count": "{:,}".format, "times": times}
    return environment.from_string(files("mnist_search.report").joinpath("page.html").read_text("utf-8"))


def _figures(store: Store, study: Study, record: StudyRecord, shares: dict[str, float]) -> dict[str, str]:
    """The figures as HTML by name; importance with enough trials, parallel coordinates if params vary."""
    rows = study_rows(store.url, [record]) + published_rows()
    figures = {
        "accuracy": accuracy_figure(record, rows),
        "history": history_figure(record),
        "curves": curves_figure(record),
    }
    if shares:
        figures["importance"] = importance_figure(shares)
    if coordinates := list(shares) or [name for name in COORDINATES_OF_FEW if name in varying_params(study)]:
        figures["parallel"] = parallel_figure(study, coordinates[:COORDINATES])
    return {name: as_html(figure, with_script=name == "accuracy") for name, figure in figures.items()}


def _all_notations(record: StudyRecord) -> list[tuple[str, str]]:
    """The symbols of the networks of all complete trials."""
    space = record.config.space
    known = [t for t in record.ranked if space.architecture_params.keys() <= t.params.keys()]
    return list({symbol: None for trial in known for symbol in notation(space.architecture(trial.params))})


def _mistakes(store: Store, study: str, data_dir: Path | None) -> dict[str, Any]:
    """The template's values about the mistakes of the best network; none if its weights were not kept."""
    try:
        best = champion(store, study)
    except NotFound:  # run with --keep-models 0
        return {"evaluated_on": None}
    except UnusableConfiguration as error:
        logger.warning("the report has no mistakes: %s", error)
        return {"evaluated_on": None}
    measure, digits = evaluation_digits(best.card, data_dir)
    evaluation = evaluate(load_network(best.config.architecture, best.weights), digits)
    return {
        "evaluated_on": "test images" if measure == "test_accuracy" else "validation images",
        "images": len(digits),
        "wrong": round((1 - evaluation.accuracy) * len(digits)),
        "accuracy": evaluation.accuracy,
        "confusion": confusion_rows(evaluation, digits),
        "mistakes": mistakes(evaluation, digits),
    }
