"""The prepared view of a study on MLflow's runs page."""

from __future__ import annotations

import base64
import json
import zlib
from hashlib import sha256

import pytest
from mlflow.utils.validation import MAX_EXPERIMENT_TAG_VAL_LENGTH
from support import MLFLOW_WARNINGS
from tracked_trials import runs_in, train

from mnist_search.tracking.setup import open_tracking
from mnist_search.tracking.views import DIGEST_TAG, VIEW_PREFIX, compress, runs_link, view_id

pytestmark = MLFLOW_WARNINGS


@pytest.fixture
def tracking(config, study):
    return open_tracking(config, study)


def stored(tracking):
    tags = tracking.client.get_experiment(tracking.experiment_id).tags
    return tags.get(VIEW_PREFIX + view_id(tracking.parent_run_id))


def page_state(view):
    """The page's state, read as MLflow's UI reads it."""
    text = json.loads(view)["state"]
    prefix, _, packed = text.partition(";")
    assert prefix == "deflate"
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def test_view_has_the_name_of_the_study_its_columns_and_its_charts(tracking):
    view = stored(tracking)

    assert len(view) <= MAX_EXPERIMENT_TAG_VAL_LENGTH
    assert json.loads(view)["name"] == "s"
    state = page_state(view)
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`val_accuracy`", False)
    assert state["selectedColumns"] == [
        "metrics.`val_accuracy`", "metrics.`num_params`", "metrics.`epochs`", "tags.`state`",
        "metrics.`test_accuracy`", "metrics.`repeat_val_accuracy`",
    ]  # fmt: skip
    assert [chart["type"] for chart in state["compareRunCharts"]] == ["SCATTER", "LINE", "PARALLEL"]
    sections = {section["uuid"] for section in state["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} <= sections


def test_filter_columns_and_charts_of_the_view_find_the_trials(search_study, make_sync, tracking, client):
    train(search_study)
    make_sync().sync("FINISHED")
    (run,) = runs_in(client)

    state = page_state(stored(tracking))

    found = client.search_runs(
        [tracking.experiment_id], state["searchFilter"], order_by=[f"{state['orderByKey']} DESC"]
    )
    assert [each.info.run_id for each in found] == [run.info.run_id]
    known = {"metrics": run.data.metrics, "params": run.data.params, "tags": run.data.tags}
    *columns, test_accuracy, repeated = state["selectedColumns"]
    assert (test_accuracy, repeated) == ("metrics.`test_accuracy`", "metrics.`repeat_val_accuracy`")
    for column in columns:
        kind, _, name = column.partition(".")
        assert name.strip("`") in known[kind]
    (group,) = state["groupBy"]["groupByKeys"]
    assert run.data.tags[group["groupByData"]] == "s"
    scatter, line, parallel = state["compareRunCharts"]
    names = {
        scatter["xaxis"]["key"],
        scatter["yaxis"]["key"],
        line["metricKey"],
        *parallel["selectedMetrics"],
    }
    assert names <= run.data.metrics.keys()
    assert set(parallel["selectedParams"]) <= run.data.params.keys()


def test_view_is_written_once(tracking, config, study):
    before = stored(tracking)

    again = open_tracking(config, study)

    assert stored(again) == before


def test_view_of_an_older_version_is_replaced(tracking, config, study):
    written = page_state(stored(tracking))
    older = json.dumps({"name": "s", "state": compress({"orderByKey": "start_time"})})
    key = VIEW_PREFIX + view_id(tracking.parent_run_id)
    tracking.client.set_experiment_tag(tracking.experiment_id, key, older)
    tracking.client.set_tag(tracking.parent_run_id, DIGEST_TAG, sha256(older.encode()).hexdigest())

    open_tracking(config, study)

    assert page_state(stored(tracking)) == written


@pytest.mark.parametrize("edited", ["{}", None], ids=["edited", "deleted"])
def test_view_that_a_user_has_changed_stays(tracking, config, study, edited):
    key = VIEW_PREFIX + view_id(tracking.parent_run_id)
    if edited:
        tracking.client.set_experiment_tag(tracking.experiment_id, key, edited)
    else:
        tracking.client.delete_experiment_tag(tracking.experiment_id, key)

    open_tracking(config, study)

    assert stored(tracking) == edited


def test_link_names_the_view_and_the_kind_of_page():
    link = runs_link("http://127.0.0.1:5000/", "1", "abc", charts=True)

    assert link == (
        "http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning"
        "&viewStateShareKey=mnist-search-abc&compareRunsMode=CHART"
    )
