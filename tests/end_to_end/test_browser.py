"""The MLflow UI on a real study, in a real browser."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from urllib.parse import urlencode

import numpy as np
import pytest
from PIL import Image
from support import free_port

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

STUDY = "budget-1500"
TIMEOUT_MS = 60_000


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, mnist_dir):
    """A folder with a study of four trials, created by the command line."""
    folder = tmp_path_factory.mktemp("browser")
    command = [sys.executable, "-m", "mnist_search"]
    options = "--budget 1500 --trials 4 --epochs 2 --train-images 2000 --val-images 1000 --pruner none"
    subprocess.run([*command, "run", *options.split(), "--data-dir", mnist_dir], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def trials(workdir):
    """The trials in the store, the best first."""
    command = [sys.executable, "-m", "mnist_search", "trials", STUDY, "--format", "json"]
    output = subprocess.run(command, cwd=workdir, check=True, capture_output=True, text=True).stdout
    return sorted(json.loads(output), key=lambda trial: -trial["val_accuracy"])


@pytest.fixture(scope="module")
def address(workdir):
    """``mnist-search ui``, running in that folder."""
    port = free_port()
    command = [sys.executable, "-m", "mnist_search", "ui", "--port", str(port)]
    log = (workdir / "ui.log").open("w")
    with (
        log,
        subprocess.Popen(
            command, cwd=workdir, env=os.environ, start_new_session=True, stdout=log, stderr=log
        ) as server,
    ):
        url = f"http://127.0.0.1:{port}"
        try:
            wait_for(url, server)
            yield url
        finally:
            os.killpg(server.pid, 15)


def wait_for(url, server):
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server exited"
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(url)


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1500, "height": 1000})
    page.set_default_timeout(TIMEOUT_MS)
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.close()
    assert errors == []


def runs(address, **query):
    return f"{address}/#/experiments/1/runs?{urlencode(query)}"


def best_first(address, condition):
    """URL of the runs that match; sorted by a metric the table is flat."""
    order = {"orderByKey": "metrics.`val_accuracy`", "orderByAsc": "false"}
    return runs(address, searchFilter=condition, **order)


def names(page, count):
    """Names of the runs in the table from top to bottom, once it has ``count`` of them."""
    page.get_by_text(f"{count} matching runs").wait_for()
    cells = page.locator("[role=gridcell][col-id*='Run Name']").filter(has=page.get_by_role("link"))
    cells.nth(count - 1).wait_for()
    tops = {cell.get_by_role("link").inner_text(): cell.bounding_box()["y"] for cell in cells.all()}
    return sorted(tops, key=tops.__getitem__)


def assert_not_blank(page, path):
    """The screenshot has contrast."""
    page.screenshot(path=path)
    assert np.asarray(Image.open(path).convert("L")).std() > 10


def test_run_of_a_study_expands_to_its_trials(page, address, trials, tmp_path):
    page.goto(runs(address))
    parent = page.get_by_role("link", name=STUDY, exact=True)
    parent.wait_for()
    assert page.get_by_role("link", name=f"{STUDY} trial").count() == 0

    page.locator("[role=row]").filter(has=parent).first.get_by_role("button").first.click()

    for trial in trials:
        page.get_by_role("link", name=f"{STUDY} trial {trial['number']}", exact=True).first.wait_for()
    assert_not_blank(page, tmp_path / "study.png")


def test_trials_sort_by_their_accuracy(page, address, trials):
    page.goto(best_first(address, "tags.role = 'trial'"))

    shown = names(page, len(trials))

    accuracy = {f"{STUDY} trial {trial['number']}": trial["val_accuracy"] for trial in trials}
    assert [accuracy[name] for name in shown] == sorted(accuracy.values(), reverse=True)


def test_trials_filter_by_their_parameters(page, address, trials):
    limit = sorted(trial["num_params"] for trial in trials)[1]
    few = {f"{STUDY} trial {trial['number']}" for trial in trials if trial["num_params"] <= limit}

    page.goto(best_first(address, f"metrics.num_params <= {limit}"))

    assert set(names(page, len(few))) == few


def test_trial_shows_its_parameters_curves_layers_and_model(page, address, trials, tmp_path):
    best = trials[0]
    run = f"{address}/#/experiments/1/runs/{best['run_id']}"

    page.goto(run)
    page.get_by_text(best["architecture"], exact=True).first.wait_for()
    page.get_by_text(f"{STUDY}-trial-{best['number']}").first.wait_for()

    page.goto(f"{run}/model-metrics")
    page.get_by_text(f"{STUDY} trial {best['number']} (val_accuracy)").first.wait_for()
    assert_not_blank(page, tmp_path / "curves.png")

    page.goto(f"{run}/artifacts/layers.txt")
    page.get_by_text("Total multiply-adds").first.wait_for()


def test_parent_run_shows_the_progress_of_the_study(page, address, trials, tmp_path):
    page.goto(runs(address))
    page.get_by_role("link", name=STUDY, exact=True).click()

    page.get_by_text(f"{len(trials)} of {len(trials)}").first.wait_for()
    assert_not_blank(page, tmp_path / "parent.png")


def test_link_of_ui_opens_the_trials_of_the_study_best_first(page, workdir, address, trials, tmp_path):
    page.goto(link_of_ui(workdir, address))
    page.get_by_role("link", name=f"{STUDY} trial {trials[0]['number']}", exact=True).wait_for()

    for column in ("val_accuracy", "num_params", "epochs", "state"):
        page.get_by_role("columnheader").filter(has_text=column).first.wait_for()
    shown = names(page, len(trials))
    accuracy = {f"{STUDY} trial {trial['number']}": trial["val_accuracy"] for trial in trials}
    assert [accuracy[name] for name in shown] == sorted(accuracy.values(), reverse=True)
    page.get_by_text("share key").wait_for(state="detached")  # the message of an invalid view
    assert_not_blank(page, tmp_path / "view.png")


def test_link_of_ui_opens_the_charts_of_the_study(page, workdir, address, tmp_path):
    page.goto(f"{link_of_ui(workdir, address)}&compareRunsMode=CHART")

    # MLflow names these charts itself: their metrics, and "Parallel Coordinates".
    for title in ("num_params vs. val_accuracy", "val_accuracy", "Parallel Coordinates"):
        page.get_by_text(title).first.wait_for()
    assert_not_blank(page, tmp_path / "charts.png")


def link_of_ui(workdir, address):
    """The link to the study's runs that ``mnist-search ui`` has printed."""
    (line,) = (line for line in (workdir / "ui.log").read_text().splitlines() if f"runs of {STUDY}:" in line)
    link = line.split()[-1]
    assert link.startswith(address)
    return link
