"""The base check after every fault: store, MLflow and kept weights agree, and nothing is left over."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import sqlalchemy as sa

from mnist_search.data.dataset import load_split
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store
from mnist_search.storage.tables import leases
from mnist_search.training.evaluate import evaluate
from mnist_search.training.model import count, load_network

STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}


def open_study(folder, study="budget-1500"):
    return SearchStudy.open(Store.open(f"sqlite:///{folder}/mnist-search.db"), study)


def runs_of(folder):
    """Trial runs by number, the study's run, and a client."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("mnist-search")
    runs = client.search_runs([experiment.experiment_id])
    trials = {int(r.data.tags["trial"]): r for r in runs if r.data.tags["role"] == "trial"}
    assert len(trials) == sum(r.data.tags["role"] == "trial" for r in runs), "two runs of one trial"
    (parent,) = (r for r in runs if r.data.tags["role"] == "study")
    return trials, parent, client


def assert_sound(folder, *, trials, data_dir=None, tracked=True, study="budget-1500", known_faults=()):
    """Check a full study in ``folder``; its record.

    Args:
        folder: working directory of the commands.
        trials: number of trials that the study must have, all of them finished.
        data_dir: folder of MNIST; None skips the evaluation of the best network.
        tracked: whether MLflow is checked, too.
        study: name of the study.
        known_faults: checks to omit, because live logging fails them: "models" (a killed worker leaves a
            logged model without a trial), "times" (a run that is written later ends before it starts).
    """
    search_study = open_study(folder, study)
    record = search_study.record()
    assert [t.number for t in record.trials] == list(range(trials))
    assert all(t.is_finished for t in record.trials)
    assert all(t.num_params <= record.config.budget for t in record.trials)
    _assert_store_is_clean(folder)
    weights = search_study.queue.kept_weights()
    _assert_weights_match(record, weights, data_dir)
    if tracked:
        _assert_tracking_agrees(folder, record, weights, known_faults)
    return record


def _assert_store_is_clean(folder):
    store = Store.open(f"sqlite:///{folder}/mnist-search.db")
    with store.engine.connect() as connection:
        assert connection.execute(sa.select(leases)).all() == []
    store.close()
    for path in folder.glob("*.db"):
        with closing(sqlite3.connect(path)) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert database.execute("PRAGMA foreign_key_check").fetchall() == []
    assert [path.name for path in folder.rglob("*") if path.suffix in {".new", ".tmp"}] == []


def _assert_weights_match(record, weights, data_dir):
    """Kept weights include the best trial's, are within the budget, and reproduce the stored accuracy."""
    ranked = [trial.trial_id for trial in record.ranked]
    assert set(weights) <= set(ranked)
    assert set(ranked[:1]) <= set(weights)
    for trial in record.ranked:
        if trial.trial_id not in weights:
            continue
        architecture = record.config.space.architecture(trial.params)
        network = load_network(architecture, weights[trial.trial_id])
        assert count(network) == trial.num_params <= record.config.budget
    if data_dir is not None and weights:
        val = load_split(data_dir, *record.config.split).val
        network = load_network(record.config.space.architecture(record.best.params), weights[ranked[0]])
        assert abs(evaluate(network, val).accuracy - record.best.val_accuracy) <= 2 / len(val)


def _assert_tracking_agrees(folder, record, weights, known_faults):
    """Every trial has one run with its state, its epochs and its times; models are those of kept weights."""
    runs, parent, client = runs_of(folder)
    assert {n: run.info.status for n, run in runs.items()} == {
        t.number: STATUS[t.state] for t in record.trials
    }
    for trial in record.trials:
        run = runs[trial.number]
        assert run.info.run_id == trial.run_id
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert "times" in known_faults or run.info.end_time >= run.info.start_time
        points = client.get_metric_history(trial.run_id, "val_accuracy")
        assert [point.value for point in sorted(points, key=lambda point: point.step)] == [
            metrics.val_accuracy for metrics in trial.curve
        ]
    models = client.search_logged_models([parent.info.experiment_id], max_results=100)
    kept = {trial.model_id for trial in record.trials if trial.trial_id in weights}
    assert kept <= {model.model_id for model in models}
    assert "models" in known_faults or len(models) == len(kept)
    assert all(str(model.status) == "READY" for model in models if model.model_id in kept)
