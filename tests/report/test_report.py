"""The report page, its figures and error analysis, and the leaderboard of a store."""

from __future__ import annotations

import base64
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
import torch
from finished import complete_trial, finish_finals
from mlflow import MlflowClient
from optuna.trial import TrialState
from PIL import Image
from safetensors.torch import save
from support import MLFLOW_WARNINGS
from tracked_trials import runs_in

from mnist_search.data.dataset import Digits
from mnist_search.errors import NotFound
from mnist_search.report.error_analysis import confusion_rows, mistakes
from mnist_search.report.page import log_report, render_report
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


class Page(HTMLParser):
    """Headings, cells by row, text and addresses of a page."""

    def __init__(self, html):
        super().__init__()
        self.headings, self.rows, self.addresses, self.text, self._tag = [], [], [], "", ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self._tag = tag
        if tag == "tr":
            self.rows.append([])
        self.addresses += [value for name, value in attributes if name in {"src", "href"}]

    def handle_endtag(self, _tag):
        self._tag = ""

    def handle_data(self, data):
        if self._tag in {"script", "style"}:
            return
        self.text += data
        if self._tag in {"h1", "h2"}:
            self.headings.append(data)
        if self._tag in {"td", "th"}:
            self.rows[-1].append(data.strip())


def test_report_has_one_heading_per_section_with_the_result_first(search_study, store, mnist_dir):
    html = render_report(store, search_study.name, mnist_dir)

    page = Page(html)
    assert page.headings == [
        "budget-1500",
        "Accuracy against parameters",
        "History",
        "Learning curves",
        "Parallel coordinates",
        "Network",
        "Completed trials",
        "Mistakes of the best network",
        "Trials that did not complete",
    ]
    before, _ = page.text.split("Accuracy against parameters")
    for words in ("98.00 %", "validation accuracy, 95 % interval", "67 % of the budget of 1,500", "trial 1"):
        assert words in before
    assert "mnist-search run --budget 1500 --trials 5 --epochs 2" in before
    assert "5 of 5 trials done" in before
    assert "not complete:" not in before
    assert [address for address in page.addresses if not address.startswith("data:")] == []
    assert "&lt;b&gt;reason 4&lt;/b&gt;" in html
    assert "<b>reason" not in html
    assert ["1", "98.00 %", "0.1000", "1,001", "1"] in [row[:5] for row in page.rows]


def test_report_shows_the_test_set_after_finals(search_study, store, mnist_dir):
    finish_three_finals(search_study, store)

    page = Page(render_report(store, search_study.name, mnist_dir))

    assert page.headings[1] == "Final evaluation"
    before, after = page.text.split("Final evaluation")
    assert "99.340 %" in before
    assert "test accuracy, 95 % interval 98.79 to 99.89 %" in before
    assert "of 10,000 test images" in after


def test_report_of_an_unfinished_study_without_weights_says_so(store, study_config, mnist_dir):
    search_study = SearchStudy.open_or_create(store, "light", study_config, 2)
    complete_trial(search_study, 0.9)

    page = Page(render_report(store, "light", mnist_dir))

    assert "The search is not complete: 1 of 2 trials are done" in page.text
    assert "Mistakes of the best network" not in page.headings
    assert "Importance of the hyperparameters" not in page.headings
    assert "Trials that did not complete" not in page.headings


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
    (line,) = (line for line in written if "budget-1500" in line)
    assert line.startswith("| budget-1500 | 1,001 | 99.340 % (98.79 to 99.89) | 3 | test, last of 2 epochs")
    assert "reported: 99.50 % on the test set, best of 15 epochs" in written[4]


def test_leaderboard_leaves_a_file_without_markers_unchanged(command, tmp_path):
    (tmp_path / "notes.md").write_text("no markers")

    done = command("leaderboard", "notes.md")

    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "has no leaderboard to replace" in done.err
    assert (tmp_path / "notes.md").read_text() == "no markers"


class FixedLogits(torch.nn.Module):
    """Predicts 1 with a logit that the first pixel selects, and 0 where it is 0."""

    def forward(self, pixels):
        logit = torch.tensor([0.0, 1.0, 2.0, 5.0])[(255 * pixels[:, 0, 0, 0]).round().long()]
        logits = torch.zeros(len(pixels), 10)
        logits[:, 1] = logit
        logits[:, 0] = torch.where(logit == 0, 1.0, 0.0)
        return logits


@pytest.fixture
def four_digits():
    images = torch.zeros(4, 1, 28, 28, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(4, dtype=torch.uint8)
    return Digits(images, torch.tensor([0, 1, 0, 0]))


def test_mistakes_are_listed_by_decreasing_loss(four_digits):
    found = mistakes(evaluate(FixedLogits(), four_digits), four_digits)

    assert [(m.label, m.prediction, round(m.probability, 2)) for m in found] == [(0, 1, 0.94), (0, 1, 0.45)]
    pixels = np.asarray(Image.open(BytesIO(base64.b64decode(found[0].image.split(",")[1]))))
    assert (pixels.shape, pixels[0, 0], pixels[1, 1]) == ((28, 28), 255 - 3, 255)


def test_confusion_matrix_is_shaded_by_its_errors(four_digits):
    rows = confusion_rows(evaluate(FixedLogits(), four_digits), four_digits)

    assert [cell.images for cell in rows[0][:2]] == [1, 2]
    assert [cell.shade for cell in rows[0][:2]] == [0.0, 1.0]
    assert rows[1][1] == (1, 0.0)


@MLFLOW_WARNINGS
def test_report_is_logged_to_the_run_of_the_study(search_study, store, mnist_dir, tmp_path):
    tracking = make_tracking_config(f"sqlite:///{tmp_path}/mlflow.db", "experiment")
    warnings = []

    log_report(store.url, search_study.name, mnist_dir, tracking=tracking, warn=warnings.append)

    client = MlflowClient(tracking.tracking_uri)
    (run,) = runs_in(client, "study")
    assert (run.info.run_name, run.info.status) == (search_study.name, "FINISHED")
    assert len(runs_in(client)) == 3  # the others were never decoded
    assert "report.html" in [file.path for file in client.list_artifacts(run.info.run_id)]
    assert warnings == []
