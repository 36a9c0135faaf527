"""The verb ``compare``."""

from __future__ import annotations

import json

import pytest
from finished import finish_final

from mnist_search.evaluation.finals import reproductions
from mnist_search.storage.finals import BASELINE_FINALS, FinalsStudy


def test_compare_shows_reproductions_when_the_store_has_no_study(store, command, tmp_path):
    finals = FinalsStudy.open_or_create(store, BASELINE_FINALS)
    tasks = reproductions(["seed-001"], seeds=2)
    finals.add(tasks)
    for _ in tasks:
        finish_final(finals, 0.991)

    rows = json.loads(command("compare", "-f", "json", "--storage", f"sqlite:///{tmp_path}/store.db").out)

    shown = {row["name"]: (row["kind"], row["test_accuracy_mean"], row["n_seeds"]) for row in rows}
    assert shown["seed-001"] == ("baseline", pytest.approx(0.991), 2)
    assert shown["seed-001, default training"] == ("retrained", pytest.approx(0.991), 2)
    assert shown["seed-002"] == ("baseline", None, None)
    assert "seed-002, default training" not in shown
