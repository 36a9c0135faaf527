"""A study as one HTML page that loads nothing from the network."""

import logging
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment
from sqlalchemy.exc import SQLAlchemyError

from mnist_search import __version__
from mnist_search.errors import DiskError, NotFound, UnusableConfiguration, first_line
from mnist_search.evaluation.champion import champion
from mnist_search.evaluation.statistics import final_rows
from mnist_search.export.inference import evaluation_digits
from mnist_search.records import percent
from mnist_search.report.error_analysis import as_data_uri, plot_misclassified
from mnist_search.report.plots import as_html, study_figures, trials_figure
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store
from mnist_search.storage.tracked import TrackedStudy
from mnist_search.tracking.config import TrackingConfig
from mnist_search.tracking.figures import confusion
from mnist_search.training.evaluate import confusion_matrix, evaluate
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

    ``data_dir`` is the folder of the MNIST files, None for the cache; ``warn`` reports that MLflow is
    unreachable.

    Raises:
        DiskError: the file cannot be written; and the errors of ``render_report``.
    """
    store = Store.open(storage, write=tracking is not None)
    html = render_report(store, study, data_dir)
    if output is not None:
        try:
            output.write_text(html)
        except OSError as error:
            raise DiskError(f"cannot write {output}: {error}; name another file with --output") from error
    if tracking is None:
        return
    from mlflow.exceptions import MlflowException  # MLflow, a second to import

    from mnist_search.tracking.setup import open_tracking

    tracked = TrackedStudy(store, study)
    try:
        with tracked.lock(60.0):  # the sync process of another command may hold it
            opened = open_tracking(tracking, tracked)
            opened.client.log_text(opened.parent_run_id, html, "report.html")
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        warn(f"no report in MLflow ({first_line(error)}); write it with mnist-search report {study}")


def render_report(store: Store, study: str, data_dir: Path | None) -> str:
    """The page: finals, champion, misclassified images, figures, trials that did not complete.

    The champion is evaluated on the test set only if finals already did so.

    Raises:
        NotFound: no such study, or no complete trial.
        Unavailable: no images to evaluate the champion on.
    """
    search_study = SearchStudy.open(store, study)
    record = search_study.record()
    if record.best is None:
        raise NotFound(f"study {study!r} has no complete trial to report; see mnist-search status {study}")
    figures = {"Accuracy against parameters": trials_figure(record)} | study_figures(search_study.study)
    template = files("mnist_search.report").joinpath("page.html").read_text()
    page = Environment(autoescape=True, trim_blocks=True).from_string(template)
    return page.render(
        record=record,
        finals=final_rows(store, record),
        figures=as_html(figures),
        incomplete=[trial for trial in record.trials if trial.state in {"PRUNED", "FAIL"}],
        percent=percent,
        version=__version__,
        **_champion(store, study, data_dir),
    )


def _champion(store: Store, study: str, data_dir: Path | None) -> dict[str, Any]:
    """The template's values about the champion; none if its weights were not kept."""
    try:
        best = champion(store, study)
    except NotFound:  # run with --keep-models 0
        return {}
    except UnusableConfiguration as error:
        logger.warning("the report has no champion: %s", error)
        return {}
    measure, digits = evaluation_digits(best.card, data_dir)
    evaluated_on = f"{len(digits):,} {'test' if measure == 'test_accuracy' else 'validation'} images"
    evaluation = evaluate(load_network(best.config.architecture, best.weights), digits)
    counts = confusion_matrix(evaluation.predictions, digits.labels).numpy()
    return {
        "champion": best,
        "accuracy": evaluation.accuracy,
        "evaluated_on": evaluated_on,
        "confusion": as_data_uri(confusion(counts, evaluated_on)),
        "misclassified": as_data_uri(plot_misclassified(evaluation, digits)),
    }
