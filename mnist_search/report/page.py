"""A study as one page that needs no network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from importlib.resources import files as resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_search import __version__
from mnist_search.errors import NotFound
from mnist_search.evaluation.champion import Champion, champion
from mnist_search.evaluation.finals import finals_of, summaries
from mnist_search.records import StudyRecord
from mnist_search.report.plots import accuracy_against_parameters, as_html, study_figures
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store
from mnist_search.tracking.config import TrackingConfig

if TYPE_CHECKING:
    from mnist_search.report.error_analysis import ErrorAnalysis


def report(store: Store, study: str, data_dir: Path | None) -> str:
    """The page: finals, champion, its mistakes, how the search went, what did not complete.

    The champion's mistakes are on the test set only if finals have opened it.

    Raises:
        NotFound: no such study, or no complete trial to tell of.
        Unavailable: no images to judge the champion by.
    """
    from jinja2 import Environment  # only where a page is made
    from markupsafe import Markup

    search_study = SearchStudy.open(store, study)
    record = search_study.record()
    if record.best is None:
        raise NotFound(f"study {study!r} has no complete trial to report on; mnist-search status {study}")
    figures: dict[str, Any] = {"Accuracy against parameters": accuracy_against_parameters(record)}
    figures |= study_figures(search_study.study)
    page = Environment(autoescape=True, trim_blocks=True).from_string(
        resources("mnist_search.report").joinpath("page.html").read_text()
    )
    return page.render(
        record=record,
        finals=_finals(store, record),
        figures={name: Markup(html) for name, html in as_html(figures).items()},  # noqa: S704 - plotly's own
        ended=[trial for trial in record.trials if trial.state in {"PRUNED", "FAIL"}],
        percent=_percent,
        version=__version__,
        **_champion(store, study, data_dir),
    )


def _finals(store: Store, record: StudyRecord) -> list[dict[str, Any]]:
    held = finals_of(store, record)
    promised = {f"trial {trial.number}": trial.val_accuracy for trial in record.trials}
    rows = [asdict(summary) for summary in summaries(held[-1])] if held else []
    return [row | {"val_accuracy": promised.get(row["name"])} for row in rows]


def _champion(store: Store, study: str, data_dir: Path | None) -> dict[str, Any]:
    """What is shown of the champion; nothing of one whose weights were not kept."""
    from mnist_search.report.error_analysis import as_data_uri, plot_misclassified  # torch
    from mnist_search.tracking.figures import confusion

    try:
        found = champion(store, study)
    except NotFound:  # run with --keep-models 0
        return {}
    judgement, judged_on = _judge(found, data_dir)
    return {
        "champion": found,
        "judgement": judgement,
        "judged_on": judged_on,
        "confusion": as_data_uri(confusion(judgement.confusion, judged_on)),
        "plot_misclassified": as_data_uri(plot_misclassified(judgement.worst)),
    }


def _judge(found: Champion, data_dir: Path | None) -> tuple[ErrorAnalysis, str]:
    from mnist_search.data import mnist
    from mnist_search.data.dataset import Digits, load_split
    from mnist_search.export.formats import restore  # torch
    from mnist_search.report.error_analysis import judge
    from mnist_search.training.device import CPU

    folder = mnist.find(data_dir)
    network = restore(found.config.architecture, found.weights)
    if found.card.get("test_accuracy") is None:
        train_images, val_images, seed = found.card["split"]
        val = load_split(folder, train_images, val_images, seed, CPU).val
        return judge(network, val), f"{len(val):,} validation images"
    test = Digits.from_arrays(*mnist.read_test(folder))
    return judge(network, test), f"{len(test):,} test images"


def _percent(fraction: float | None, digits: int = 2) -> str:
    return "-" if fraction is None else f"{100 * fraction:.{digits}f} %"


def keep_with_run(
    store: Store, study: str, page: str, tracking_config: TrackingConfig, warn: Callable[[str], None]
) -> None:
    """Keep the page with the study's run in MLflow, as far as that can be reached."""
    from mnist_search.tracking.mlflow_tracker import MlflowTracker  # a second to import
    from mnist_search.tracking.setup import parent_of, prepare

    prepared = prepare(tracking_config, parent_of(SearchStudy.open(store, study).record()), warn)
    if prepared is not None:
        MlflowTracker(prepared, study, warn).log_study_page(page, "report.html")
