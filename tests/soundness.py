"""The base check after every fault: store, MLflow and kept weights agree, and nothing is left over."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from contextlib import closing

import sqlalchemy as sa
from tracked_trials import number_of

from mnist_search.data.dataset import load_split, load_test
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store
from mnist_search.storage.finals import BASELINE_FINALS, SUFFIX, FinalsStudy, name_of_finals
from mnist_search.storage.tables import epochs, leases
from mnist_search.training.evaluate import evaluate
from mnist_search.training.model import count, load_network

STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
STORE = "mnist-search.db"


def open_study(folder, study="budget-1500"):
    return SearchStudy.open(Store.open(f"sqlite:///{folder}/{STORE}"), study)


def runs_of(folder, study="budget-1500", role="trial"):
    """Runs of a study's trials by number, its parent run, and a client; ``role`` of finals is ``final``."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("mnist-search")
    runs = client.search_runs([experiment.experiment_id], max_results=10_000)
    name = study if study == BASELINE_FINALS else study.removesuffix(SUFFIX)
    of_study = [r for r in runs if r.data.tags["study"] == name and r.data.tags["role"] == role]
    trials = {number_of(r): r for r in of_study}
    assert len(trials) == len(of_study), "two runs of one trial"
    (parent,) = (r for r in runs if r.data.tags["role"] == "study" and r.data.tags["study"] == name)
    return trials, parent, client


def assert_sound(folder, *, trials, data_dir=None, tracked=True, study="budget-1500"):
    """Check a full study in ``folder``; its record.

    Args:
        folder: working directory of the commands.
        trials: number of trials that the study must have, all of them finished.
        data_dir: folder of MNIST; None skips the evaluation of the best network.
        tracked: whether MLflow is checked, too.
        study: name of the study.
    """
    search_study = open_study(folder, study)
    record = search_study.record()
    assert [t.number for t in record.trials] == list(range(trials))
    assert all(t.is_finished for t in record.trials)
    assert all(t.num_params <= record.config.budget for t in record.trials)
    assert_store_is_sound(folder)
    _assert_epochs_match(folder, record)
    weights = search_study.queue.kept_weights()
    _assert_weights_match(record, weights, data_dir)
    if tracked:
        runs, parent, client = runs_of(folder, study)
        _assert_runs_agree(record, runs, parent, client, "val_")
        _assert_series_agree(record, parent, client)
        _assert_models_agree(record, weights, parent, client)
    return record


def assert_finals_sound(folder, study, n, *, data_dir=None, tracked=True):
    """Check the finals of a search study, or of ``baselines``, in ``folder``; their record.

    Args:
        folder: working directory of the commands.
        study: name of the search study.
        n: number of complete trials that the finals must have, without replaced ones.
        data_dir: folder of MNIST; None skips the evaluation of the first network on the test set.
        tracked: whether MLflow is checked, too.
    """
    finals = FinalsStudy.open(Store.open(f"sqlite:///{folder}/{STORE}"), name_of_finals(study))
    record = finals.record()
    assert [t.state for t in record.current] == ["COMPLETE"] * n
    assert all(t.is_finished for t in record.trials)
    assert all(t.epochs == t.task.training.epochs for t in record.current)
    assert_store_is_sound(folder)
    _assert_epochs_match(folder, record)
    weights = finals.queue.kept_weights()
    evaluated = [trial for trial in record.current if trial.task.split is None]
    assert weights.keys() == {
        t.trial_id for t in record.trials if t.state == "COMPLETE" and t.task.split is None
    }
    for trial in evaluated:
        network = load_network(trial.task.architecture, weights[trial.trial_id])
        assert count(network) == trial.num_params
        if data_dir is not None and trial is evaluated[0]:
            test = load_test(data_dir)
            assert abs(evaluate(network, test).accuracy - trial.test_accuracy) <= 2 / len(test)
    if tracked:
        runs, parent, client = runs_of(folder, record.name, "final")
        _assert_runs_agree(record, runs, parent, client, "test_")
        for trial in record.current:
            accuracies = {"test_accuracy": trial.test_accuracy, "repeat_val_accuracy": trial.val_accuracy}
            measured = {name: value for name, value in accuracies.items() if value is not None}
            assert measured.items() <= runs[trial.number].data.metrics.items()
            assert ("test_accuracy" in measured) is (trial.task.split is None)
            assert runs[trial.number].data.params["final_seed"] == str(trial.task.seed)
    return record


def assert_store_is_sound(folder, database=STORE):
    """Check that no lease is left, that the databases are intact and that no temporary file is left."""
    store = Store.open(f"sqlite:///{folder}/{database}")
    with store.engine.connect() as connection:
        assert connection.execute(sa.select(leases)).all() == []
    store.close()
    for path in folder.glob("*.db"):
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    assert [path.name for path in folder.rglob("*") if path.suffix in {".new", ".tmp"}] == []


def _assert_epochs_match(folder, record):
    """The stored epochs are those of each trial's last attempt, once each; they are its curve."""
    store = Store.open(f"sqlite:///{folder}/{STORE}")
    rows = defaultdict(list)
    with store.engine.connect() as connection:
        of_study = sa.select(epochs).where(epochs.c.study_uid == record.uid).order_by(epochs.c.epoch)
        for row in connection.execute(of_study):
            rows[row.trial_id].append((row.attempt, row.epoch, row.val_accuracy, row.train_loss))
    store.close()
    for trial in record.trials:
        if trial.attempt is None and trial.trial_id not in rows:
            continue  # version 0.1 stored an attribute
        expected = [(trial.attempt, m.epoch, m.val_accuracy, m.train_loss) for m in trial.curve]
        assert rows.pop(trial.trial_id, []) == expected
        assert [metrics.epoch for metrics in trial.curve] == list(range(1, trial.epochs + 1))
    assert not rows, "epochs of no trial"


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


def _assert_runs_agree(record, runs, parent, client, prefix):
    """Every trained trial has one run with its state, identity, times and epochs."""
    trained = [t for t in record.trials if not t.is_over_budget and t.num_params is not None]
    assert {n: run.info.status for n, run in runs.items()} == {t.number: STATUS[t.state] for t in trained}
    for trial in trained:
        run = runs[trial.number]
        assert run.info.run_id == trial.run_id
        tags = {name: run.data.tags[name] for name in ("study.uid", "attempt", "state")}
        assert number_of(run) == trial.number
        assert tags == {"study.uid": record.uid, "attempt": trial.attempt or "", "state": trial.state}
        assert "trial.state" not in run.data.tags
        assert not run.data.params.keys() & run.data.metrics.keys()
        assert run.data.metrics["epochs"] == trial.epochs
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        times = run.info.start_time / 1000, run.info.end_time / 1000
        for time, stored in zip(times, (trial.started, trial.completed), strict=True):
            assert abs(time - stored.timestamp()) <= 1
        _assert_points_agree(trial, client, prefix)


def _assert_points_agree(trial, client, prefix):
    curve = [metrics.to_dict() for metrics in trial.curve]
    for name in set().union(*curve) - {"epoch", "timestamp"}:
        metric = "epoch_seconds" if name == "seconds" else name.replace("val_", prefix)
        history = client.get_metric_history(trial.run_id, metric)
        points = sorted((point.step, point.timestamp, point.value) for point in history)
        assert points == [(m["epoch"], m["timestamp"], m[name]) for m in curve], name


def _assert_series_agree(record, parent, client):
    """The study's metrics have one point per finished trial."""
    done = len(record.done)
    steps = list(range(1, done + 1))
    for name, last in (("trials_done", done), ("trained_epochs", record.trained_epochs)):
        history = sorted(client.get_metric_history(parent.info.run_id, name), key=lambda point: point.step)
        assert [point.step for point in history] == steps, name
        assert history[-1].value == last, name
    if record.best:
        best = client.get_metric_history(parent.info.run_id, "best_val_accuracy")
        values = {point.step: point.value for point in best}
        assert len(values) == len(best)
        assert values[done] == record.best.val_accuracy
        assert sorted(values.values()) == [values[step] for step in sorted(values)]


def _assert_models_agree(record, weights, parent, client):
    """The study's models are those of the trials with kept weights, one each, all of them complete."""
    found, token = [], None
    while True:
        page = client.search_logged_models([parent.info.experiment_id], max_results=100, page_token=token)
        found += [model for model in page if model.tags.get("study.uid") == record.uid]
        token = page.token
        if not token:
            break
    kept = {trial.model_id: trial.run_id for trial in record.trials if trial.trial_id in weights}
    assert len(found) == len(weights)
    assert {model.model_id: model.source_run_id for model in found} == kept
    assert all(str(model.status) == "READY" for model in found)
    assert all(trial.model_id is None for trial in record.trials if trial.trial_id not in weights)
