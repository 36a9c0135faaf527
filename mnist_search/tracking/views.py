"""The prepared view of a study on MLflow's runs page, and the link that opens it; does not import MLflow.

MLflow 3.16 and later keep a saved view as a tag of the experiment. Where a version knows none, the link
opens the plain page.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
import zlib
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from mnist_search.tracking.runs import Tracking

VIEW_PREFIX = "mlflow.sharedViewState."
"""Of the experiment's tags that hold views."""

DIGEST_TAG = "view.digest"
"""Tag of the parent run: digest of the view as it was written; a user who edits or deletes it keeps that."""

MAX_RUNS = 100
"""Runs in a chart, at most."""

PARAMS = ("depth", "optimizer", "peak_lr", "dropout", "augmentation")
"""Params of the parallel coordinates, whose labels overlap if there are more."""

COLUMNS = (
    *(f"metrics.`{name}`" for name in ("val_accuracy", "num_params", "epochs")),
    "tags.`state`",
    "metrics.`test_accuracy`",
    "metrics.`repeat_val_accuracy`",
)
"""Columns of the table; only final runs have the last two."""


def view_id(parent_run_id: str) -> str:
    """The id of the view of a study."""
    return f"mnist-search-{parent_run_id}"


def runs_link(server: str, experiment_id: str, parent_run_id: str, *, charts: bool = False) -> str:
    """The address of the view of a study, with its table of runs or with its charts."""
    query = {"workflowType": "machine_learning", "viewStateShareKey": view_id(parent_run_id)}
    if charts:
        query["compareRunsMode"] = "CHART"
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?{urlencode(query)}"


def save_view(tracking: Tracking) -> None:
    """Save the view of a study in its experiment, unless a user has edited or deleted it."""
    client, key = tracking.client, VIEW_PREFIX + view_id(tracking.parent_run_id)
    stored = client.get_experiment(tracking.experiment_id).tags.get(key)
    written = client.get_run(tracking.parent_run_id).data.tags.get(DIGEST_TAG)
    state = compress(view_state(tracking))
    is_new = stored is None and written is None
    is_outdated = stored is not None and _digest(stored) == written and json.loads(stored)["state"] != state
    if is_new or is_outdated:
        now = int(1000 * time.time())
        view = json.dumps({"name": tracking.study, "createdAt": now, "updatedAt": now, "state": state})
        client.set_experiment_tag(tracking.experiment_id, key, view)
        client.set_tag(tracking.parent_run_id, DIGEST_TAG, _digest(view))


def delete_view(client: MlflowClient, experiment_id: str, parent_run_id: str) -> None:
    """Delete the view of a study, if the experiment has it."""
    key = VIEW_PREFIX + view_id(parent_run_id)
    if key in client.get_experiment(experiment_id).tags:
        client.delete_experiment_tag(experiment_id, key)


def _digest(view: str) -> str:
    return hashlib.sha256(view.encode()).hexdigest()


def compress(state: dict[str, Any]) -> str:
    """The text of a page's state, as MLflow writes it."""
    return "deflate;" + base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()


def view_state(tracking: Tracking) -> dict[str, Any]:
    """The state of the runs page: the runs of a study in one group, the most accurate first, and charts.

    The page shows runs below their parent run only while they are sorted by time, so a group by the
    study's name takes its place. The charts show every run, not the means of the group.
    """
    return {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{tracking.parent_run_id}'",
        "orderByKey": "metrics.`val_accuracy`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(COLUMNS),
        "columnOrder": [],
        "columnWidths": {},
        "runsHiddenMode": "SHOW_ALL",
        "viewMaximized": False,
        "runListHidden": False,
        "groupBy": {
            "aggregateFunction": "max",
            "groupByKeys": [{"mode": "tag", "groupByData": "study"}],
        },
        "groupsExpanded": {},
        "useGroupedValuesInCharts": False,
        "hideEmptyCharts": True,
        "isAccordionReordered": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
        "compareRunCharts": _charts(),
        "compareRunSections": [
            {"uuid": uuid, "name": name, "display": True, "isReordered": False, "deleted": False,
             "isGenerated": uuid != "search"}
            for uuid, name in (("search", "Search"), ("model", "Model metrics"), ("system", "System metrics"))
        ],
    }  # fmt: skip


def _charts() -> list[dict[str, Any]]:
    """Accuracy against parameters, learning curves, parallel coordinates."""
    common: dict[str, Any] = {
        "metricSectionId": "search",
        "runsCountToCompare": MAX_RUNS,
        "deleted": False,
        "isGenerated": False,
    }
    scatter: dict[str, Any] = {
        "type": "SCATTER",
        "xaxis": {"key": "num_params", "type": "METRIC"},
        "yaxis": {"key": "val_accuracy", "type": "METRIC"},
    }
    line: dict[str, Any] = {
        "type": "LINE",
        "metricKey": "val_accuracy",
        "selectedMetricKeys": ["val_accuracy"],
        "xAxisKey": "step",
        "yAxisKey": "metric",
        "scaleType": "linear",
        "xAxisScaleType": "linear",
        "lineSmoothness": 0,
        "selectedXAxisMetricKey": "",
        "yAxisExpressions": [],
        "range": {},
    }
    parallel: dict[str, Any] = {
        "type": "PARALLEL",
        "selectedParams": list(PARAMS),
        "selectedMetrics": ["num_params", "val_accuracy"],
        "showAllRuns": True,
    }
    named = {
        "Accuracy against parameters": scatter,
        "Learning curves": line,
        "Parallel coordinates": parallel,
    }
    return [
        {"uuid": f"search-{chart['type'].lower()}", "displayName": name} | common | chart
        for name, chart in named.items()
    ]
