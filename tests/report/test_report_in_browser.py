"""The report in a real browser, on a wide window and on a phone."""

from __future__ import annotations

import shutil

import pytest
from finished import complete_trial, finish_finals
from optuna.trial import TrialState
from safetensors.torch import save

from mnist_search.report.page import render_report
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store
from mnist_search.training.model import build

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

OVERFLOWING = """() => [...document.body.querySelectorAll("*")].filter((element) => {
  const box = element.getBoundingClientRect();
  const isDrawn = box.width > 0 && box.right > 0;  // plotly measures texts at -10000 px
  return isDrawn && (box.right > innerWidth + 1 || box.left < -1) && !element.closest(".scroll");
}).map((element) => element.outerHTML.slice(0, 200))"""

UNSCROLLABLE = """() => [...document.querySelectorAll(".scroll")].filter(
  (element) => element.scrollWidth > element.clientWidth && getComputedStyle(element).overflowX !== "auto"
).length"""


@pytest.fixture(scope="module")
def report(tmp_path_factory, mnist_dir, empty_store):
    """The report of a study with finals, ten complete trials and a failed one with a long reason."""
    from experiments import StudyConfig

    folder = tmp_path_factory.mktemp("report")
    shutil.copy(empty_store, folder / "store.db")
    store = Store.open_or_create(f"sqlite:///{folder}/store.db")
    config = StudyConfig.for_budget(8000, epochs=2, pruner="none", train_images=1000, val_images=500)
    search_study = SearchStudy.open_or_create(store, "a-name-of-a-study-that-is-rather-long", config, 12)
    for number in range(10):
        complete_trial(
            search_study, 0.98 + number / 1000, num_params=6000 + 100 * number, loss=0.2 - number / 100
        )
    attributes = {"reason": "diverged: " + "a_long_word_without_spaces_" * 5}
    search_study.queue.finish(search_study.claim(), TrialState.FAIL, attributes=attributes, keep=0)
    record = search_study.record()
    weights = save(build(config.space.architecture(record.best.params), 0).state_dict())
    finish_finals(store, record, (0.9912, 0.9934), top=1, seeds=2, weights=lambda _task: weights)
    file = folder / "report.html"
    file.write_text(render_report(store, search_study.name, mnist_dir), encoding="utf-8")
    return file


@pytest.fixture
def open_report(browser, report):
    """Open the report in a window of this width, offline, and check that the page reports no error."""
    messages, requests, contexts = [], [], []

    def call(width):
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"file://{report}")
        page.locator(".plotly .main-svg").last.wait_for()
        return page

    yield call
    for context in contexts:
        context.close()
    assert messages == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_wider_than_the_window_outside_of_scroll_containers(open_report, width, tmp_path):
    page = open_report(width)

    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OVERFLOWING) == []
    assert page.evaluate(UNSCROLLABLE) == 0
    page.screenshot(path=tmp_path / f"report-{width}.png", full_page=True)


@pytest.mark.parametrize("width", [1280, 400])
def test_every_section_and_figure_is_drawn(open_report, width):
    page = open_report(width)

    assert page.locator("h2").all_inner_texts() == [
        "Final evaluation",
        "Accuracy against parameters",
        "History",
        "Learning curves",
        "Importance of the hyperparameters",
        "Parallel coordinates",
        "Network",
        "Completed trials",
        "Mistakes of the best network",
        "Trials that did not complete",
    ]
    boxes = [figure.bounding_box() for figure in page.locator(".js-plotly-plot").all()]
    assert len(boxes) == 5
    assert all(box["width"] > 0.8 * min(width, 1000) and box["height"] > 200 for box in boxes)


def test_a_click_on_a_column_sorts_the_trials_by_it(open_report):
    page = open_report(1280)
    table = page.locator("section", has=page.get_by_role("heading", name="Completed trials")).locator("table")
    numbers = table.locator("tbody td:first-child")
    assert numbers.all_inner_texts() == [str(number) for number in reversed(range(10))]

    table.get_by_role("button", name="validation loss").click()
    ascending = numbers.all_inner_texts()
    table.get_by_role("button", name="validation loss").click()

    assert ascending == [str(number) for number in reversed(range(10))]  # the loss falls with the number
    assert numbers.all_inner_texts() == [str(number) for number in range(10)]
    assert table.locator("th[aria-sort=descending]").count() == 1


def test_a_button_shows_the_range_of_the_study(open_report):
    page = open_report(400)
    labels = page.locator(".js-plotly-plot").first.locator(".xtick")
    assert "20,000" in labels.all_text_contents()

    page.locator(".updatemenu-button").last.click()

    page.wait_for_function(
        "!document.querySelector('.js-plotly-plot .xaxislayer-above').textContent.includes('20,000')"
    )
    assert "7,000" in labels.all_text_contents()
