"""The report page, its figures and error analysis, and the leaderboard of a store."""

from __future__ import annotations

import shutil

import pytest
import torch
from finished import complete_trial, finish_finals
from mlflow import MlflowClient
from optuna.trial import TrialState
from safetensors.torch import save
from support import MLFLOW_WARNINGS

from mnist_search.data.dataset import Digits
from mnist_search.errors import NotFound
from mnist_search.report.error_analysis import plot_misclassified
from mnist_search.report.page import log_report, render_report
from mnist_search.report.plots import trials_figure
from mnist_search.search.study import SearchStudy
from mnist_search.tracking.config import make_tracking_config
from mnist_search.training.evaluate import evaluate
from mnist_search.training.model import build


def weights_of(study_config, params):
    network = build(study_config.space.decode(params).architecture, 0)
    return save(network.state_dict())


@pytest.fixture
def search_study(store, study_config):
    """Three complete trials, one pruned, one failed for a reason that looks like HTML."""
    search_study = SearchStudy.open_or_create(store, "budget-1500", study_config, 5)
    for number, accuracy in enumerate((0.97, 0.98, 0.96)):
        complete_trial(
            search_study, accuracy, num_params=1000 + number, keep=3,
            weights=lambda claim: weights_of(study_config, claim.trial.params),
        )  # fmt: skip
    for number, state in ((3, TrialState.FAIL), (4, TrialState.PRUNED)):
        attributes = {"reason": f"<b>reason {number}</b>"}
        search_study.queue.finish(search_study.claim(), state, attributes=attributes, keep=3)
    return search_study


def finish_three_finals(search_study, store):
    record = search_study.record()
    weights = weights_of(record.config, record.best.params)
    finish_finals(store, record, (0.9912, 0.9934, 0.9956), top=1, seeds=3, weights=lambda _task: weights)


def test_report_shows_trials_errors_and_figures(search_study, store, mnist_dir):
    page = render_report(store, search_study.name, mnist_dir)

    assert "5 of 5 trials" in page
    assert "Champion: trial 1" in page
    assert "500 validation images" in page
    assert "&lt;b&gt;reason 4&lt;/b&gt;" in page
    assert "<b>reason" not in page
    assert "Final evaluation" not in page
    for name in (
        "Accuracy against parameters",
        "Importance by PED-ANOVA",
        "Parallel coordinates",
        "Timeline",
    ):
        assert f"<h2>{name}</h2>" in page


def test_report_shows_the_test_set_after_finals(search_study, store, mnist_dir):
    finish_three_finals(search_study, store)

    page = render_report(store, search_study.name, mnist_dir)

    assert "10,000 test images" in page
    assert "99.340 %" in page
    assert "98.793 % to 99.887 %" in page


def test_report_omits_the_champion_when_no_weights_were_kept(store, study_config, mnist_dir):
    search_study = SearchStudy.open_or_create(store, "light", study_config, 1)
    complete_trial(search_study, 0.9)

    page = render_report(store, "light", mnist_dir)

    assert "1 of 1 trials" in page
    assert "Champion" not in page


def test_report_is_rejected_without_a_complete_trial(store, study_config, mnist_dir):
    SearchStudy.open_or_create(store, "empty", study_config, 1)

    with pytest.raises(NotFound, match="no complete trial to report"):
        render_report(store, "empty", mnist_dir)


def test_leaderboard_is_written_into_a_file(search_study, store, command, tmp_path):
    storage = ("--storage", f"sqlite:///{tmp_path}/store.db")
    (tmp_path / "log.md").write_text(
        "before\n<!-- leaderboard -->\nold\n<!-- end of leaderboard -->\nafter\n"
    )

    printed = command("leaderboard", *storage).out.splitlines()
    finish_three_finals(search_study, store)
    assert command("leaderboard", "log.md", *storage).code == 0

    written = (tmp_path / "log.md").read_text().splitlines()
    assert [written[0], written[-1]] == ["before", "after"]
    assert "old" not in written
    (line,) = (line for line in printed if "budget-1500" in line)
    assert "| 98.00 % | 1 | validation, best of 5 trials" in line
    assert written[4].startswith(
        "| budget-1500 | 1,001 | 99.340 % (98.79 to 99.89) | 3 | test, last of 2 epochs"
    )
    assert "reported: 99.50 % on the test set, best of 15 epochs" in written[5]


def test_leaderboard_leaves_a_file_without_markers_unchanged(command, tmp_path):
    (tmp_path / "notes.md").write_text("no markers")

    done = command("leaderboard", "notes.md")

    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "has no leaderboard to replace" in done.err
    assert (tmp_path / "notes.md").read_text() == "no markers"


def test_trials_figure_shows_the_pareto_front(search_study):
    figure = trials_figure(search_study.record())

    front = next(trace for trace in figure.data if trace.name == "Pareto front")
    assert list(front.text) == ["trial 0", "trial 1"]


def test_misclassified_images_are_shown_by_decreasing_loss():
    images = torch.zeros(4, 1, 28, 28, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(4, dtype=torch.uint8)
    digits = Digits(images, torch.tensor([0, 1, 0, 0]))

    class FixedLogits(torch.nn.Module):
        def forward(self, pixels):
            logit = torch.tensor([0.0, 1.0, 2.0, 5.0])[(255 * pixels[:, 0, 0, 0]).round().long()]
            logits = torch.zeros(len(pixels), 10)
            logits[:, 1] = logit
            logits[:, 0] = torch.where(logit == 0, 1.0, 0.0)
            return logits

    figure = plot_misclassified(evaluate(FixedLogits(), digits), digits)

    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["0 as 1 (94%)", "0 as 1 (45%)", "", "", ""]
    assert [int(axes.images[0].get_array()[0, 0]) for axes in figure.axes[:2]] == [3, 2]


@MLFLOW_WARNINGS
def test_report_is_logged_to_the_run_of_the_study(search_study, store, mnist_dir, tmp_path):
    tracking = make_tracking_config(f"sqlite:///{tmp_path}/mlflow.db", "experiment")
    warnings = []

    log_report(store.url, search_study.name, mnist_dir, tracking=tracking, warn=warnings.append)

    client = MlflowClient(tracking.tracking_uri)
    (run,) = client.search_runs([client.get_experiment_by_name("experiment").experiment_id])
    assert run.info.run_name == search_study.name
    assert "report.html" in [file.path for file in client.list_artifacts(run.info.run_id)]
    assert warnings == []


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 400])
def test_report_fits_the_window_and_sends_no_request(search_study, store, mnist_dir, tmp_path, width):
    sync_api = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    finish_three_finals(search_study, store)
    (tmp_path / "report.html").write_text(render_report(store, search_study.name, mnist_dir))
    messages, requests = [], []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"file://{tmp_path}/report.html")
        page.locator(".plotly .main-svg").first.wait_for()
        page_width = page.evaluate("document.documentElement.scrollWidth")
        page.screenshot(path=tmp_path / "report.png")
        browser.close()

    assert messages == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert page_width <= width
