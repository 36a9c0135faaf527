"""The verb ``compare``."""

from __future__ import annotations

import json

import pytest

from mnist_search.evaluation.finals import REPRODUCTION, reproductions
from mnist_search.records import FinalResult
from mnist_search.storage.final_queue import FinalQueue


def test_compare_shows_reproductions_when_the_store_has_no_study(store, command, tmp_path):
    queue = FinalQueue(store, REPRODUCTION)
    queue.add(reproductions(["seed-001"], seeds=2))
    while claim := queue.claim():
        queue.finish(claim, FinalResult(test_accuracy=0.991), None)

    rows = json.loads(command("compare", "-f", "json", "--storage", f"sqlite:///{tmp_path}/store.db").out)

    shown = {row["name"]: (row["kind"], row["test_accuracy_mean"], row["n_seeds"]) for row in rows}
    assert shown["seed-001"] == ("baseline", pytest.approx(0.991), 2)
    assert shown["seed-001, default training"] == ("retrained", pytest.approx(0.991), 2)
    assert shown["seed-002"] == ("baseline", None, None)
    assert "seed-002, default training" not in shown
