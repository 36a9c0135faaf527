"""Trainings of a series are claimed by one, settled once, and lost never."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from statistics import mean

import numpy as np
import psutil
import pytest

from experiments import BASELINES
from experiments.defaults import TRAINING
from mnist_search.errors import NotFound, StudyConflict, UnusableConfiguration, UsageError
from mnist_search.evaluation.finals import (
    REPRODUCTION,
    final_queue_for,
    finalists,
    interval,
    reproductions,
    summaries,
)
from mnist_search.execution.trials import run_final_trial
from mnist_search.records import FinalResult, FinalTask
from mnist_search.search.study import SearchStudy
from mnist_search.storage import leases
from mnist_search.storage.final_queue import MAX_ATTEMPTS, FinalQueue, queue_names
from mnist_search.training.device import ComputeMode
from mnist_search.training.fit import evaluate
from mnist_search.training.model import build
from search_space.training_config import SGD, Plateau, TrainingConfig

QUICK = TrainingConfig(epochs=2, batch_size=50, optimizer=SGD(0.05, nesterov=True))
SMALL = FinalTask(name="small", seed=0, architecture=BASELINES["seed-001"].architecture, training=QUICK)
WEIGHTS = b"trained"


@pytest.fixture
def series(store):
    return FinalQueue(store, "final/uid/1")


def tasks(*names, seeds=2):
    return [replace(SMALL, name=name, seed=seed) for seed in range(seeds) for name in names]


def finish(series, accuracy=0.99):
    while claim := series.claim():
        assert series.finish(claim, FinalResult(test_accuracy=accuracy), WEIGHTS)


def test_every_training_is_claimed_once_in_order(series):
    series.add(tasks("a", "b"))

    claimed = [series.claim().training.task for _ in range(4)]

    assert [(task.name, task.seed) for task in claimed] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert claimed == tasks("a", "b")
    assert series.claim() is None
    assert len(series.open) == 4


def test_a_settled_training_is_over_and_keeps_its_weights(series):
    series.add(tasks("a", seeds=1))
    claim = series.claim()

    assert series.finish(claim, FinalResult(test_accuracy=0.99, curve=[{"epoch": 1}]), WEIGHTS)

    (training,) = series.trainings()
    assert training.result.test_accuracy == 0.99
    assert series.weights_of(training) == WEIGHTS
    assert series.open == []
    assert series.claim() is None


def test_what_is_put_back_is_begun_again(series):
    series.add(tasks("a", seeds=1))
    series.release(series.claim())

    assert series.claim().training.task.name == "a"


def test_who_lost_a_training_cannot_settle_it(series, store):
    series.add(tasks("a", seeds=1))
    mine = series.claim()
    leases.drop(store, -mine.training.id)
    theirs = series.claim()

    assert not series.finish(mine, FinalResult(test_accuracy=0.1), b"mine")
    assert series.finish(theirs, FinalResult(test_accuracy=0.9), b"theirs")
    assert series.trainings()[0].result.test_accuracy == 0.9
    assert series.weights_of(series.trainings()[0]) == b"theirs"


def a_dead_process():
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    return process.pid


def test_a_training_that_kills_its_workers_is_failed(series, store):
    series.add(tasks("a", seeds=1))
    for _ in range(MAX_ATTEMPTS):
        claim = series.claim()
        with store.engine.begin() as connection:
            dead = leases.leases.update().where(leases.leases.c.trial_id == -claim.training.id)
            connection.execute(dead.values(pid=a_dead_process()))

    assert series.claim() is None
    assert series.trainings()[0].result.failure == "its worker crashed 3 times"


def test_a_task_that_is_added_again_is_the_same_one(series):
    series.add(tasks("a"))
    finish(series)
    series.add(tasks("a", "b"))

    assert [training.task.name for training in series.open] == ["b", "b"]


def test_another_training_under_a_known_name_is_refused(series):
    series.add(tasks("a"))

    with pytest.raises(StudyConflict, match="trained in another way"):
        series.add([replace(SMALL, name="a", training=TRAINING)])


def test_damaged_weights_are_not_handed_out(series, store):
    series.add(tasks("a", seeds=1))
    finish(series)
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE mnist_search_weights SET safetensors = x'00'")

    with pytest.raises(UnusableConfiguration, match="damaged"):
        series.weights_of(series.trainings()[0])


def test_series_do_not_see_each_other(store):
    first, second = FinalQueue(store, "final/uid/1"), FinalQueue(store, "final/uid/2")
    first.add(tasks("a"))
    second.add(tasks("b"))

    assert {training.task.name for training in second.trainings()} == {"b"}
    assert queue_names(store, "final/uid/") == ["final/uid/1", "final/uid/2"]
    assert queue_names(store, "final/other/") == []


@pytest.fixture
def record(store, study_config):
    """A study with trials 0 to 3, of which 2 is best, 0 and 1 are equal but for their loss."""
    search_study = SearchStudy.open_or_create(store, "study", study_config, 4)
    for accuracy, loss in ((0.98, 0.2), (0.98, 0.1), (0.99, 0.3), (0.97, 0.05)):
        claim = search_study.claim()
        claim.trial.set_user_attr("num_params", 1000)
        state = type(claim.trial.study.trials[0].state).COMPLETE
        curve = [{"epoch": 1, "val_accuracy": accuracy, "val_loss": loss}]
        search_study.queue.finish(claim, state, accuracy, attributes={"curve": curve})
    return search_study.record()


def test_finalists_are_the_best_by_accuracy_and_then_by_loss(record):
    chosen = finalists(record, top=3, seeds=2)

    assert [task.name for task in chosen] == ["trial 2", "trial 1", "trial 0"] * 2
    assert [task.seed for task in chosen] == [0, 0, 0, 1, 1, 1]
    best = record.config.space.decode(record.best.params)
    assert (chosen[0].architecture, chosen[0].training) == (best.architecture, best.training)
    assert all(task.judged == "once" for task in chosen)


def test_a_study_without_a_complete_trial_has_no_finalists(store, study_config):
    with pytest.raises(NotFound, match="no complete trial"):
        finalists(SearchStudy.open_or_create(store, "empty", study_config, 1).record(), 5, 5)


def test_finals_that_were_stopped_go_on_and_are_held_once(store, record):
    asked = finalists(record, top=2, seeds=2)
    first = final_queue_for(store, record, asked, again=False)
    first.add(asked)
    first.finish(first.claim(), FinalResult(test_accuracy=0.99), None)

    assert final_queue_for(store, record, asked, again=False).name == first.name
    with pytest.raises(StudyConflict, match="not finished"):
        final_queue_for(store, record, finalists(record, top=3, seeds=2), again=False)
    finish(first)
    with pytest.raises(UsageError, match="have met the test set already"):
        final_queue_for(store, record, asked, again=False)
    with pytest.raises(UsageError, match="have met the test set already"):
        final_queue_for(store, record, finalists(record, top=1, seeds=9), again=False)
    second = final_queue_for(store, record, asked, again=True)
    assert second.name != first.name
    second.add(asked)
    assert final_queue_for(store, record, asked, again=True).name == second.name
    assert final_queue_for(store, record, asked, again=False).name == second.name
    finish(second)
    assert final_queue_for(store, record, asked, again=False, mirror=True).name == second.name
    for training in second.trainings():
        second.queue.record_run(training, "run")
    with pytest.raises(UsageError, match="have met the test set already"):
        final_queue_for(store, record, asked, again=False, mirror=True)
    assert final_queue_for(store, record, finalists(record, top=3, seeds=2), again=False).name != first.name


def test_a_seed_is_trained_as_its_author_did_and_with_our_training():
    authors, ours = reproductions(["seed-003"], seeds=1)

    assert (authors.architecture, authors.training) == (
        BASELINES["seed-003"].architecture,
        BASELINES["seed-003"].training,
    )
    assert (authors.judged, ours.judged) == ("every epoch", "once")
    assert (ours.architecture, ours.training) == (authors.architecture, TRAINING)
    with pytest.raises(NotFound, match="no recipe 'seed-9'"):
        reproductions(["seed-9"], 1)


def test_a_summary_tells_mean_spread_interval_and_worst(series):
    series.add(tasks("a", seeds=3))
    for accuracy in (0.990, 0.992, 0.994):
        series.finish(series.claim(), FinalResult(test_accuracy=accuracy, seconds=2.0), None)

    (summary,) = summaries(series)

    assert (summary.name, summary.parameters, summary.n_seeds, summary.failed) == ("a", 7204, 3, 0)
    assert summary.mean == pytest.approx(0.992)
    assert summary.sd == pytest.approx(0.002)
    assert summary.worst == 0.990
    assert (summary.low, summary.high) == pytest.approx((0.992 - 0.004968, 0.992 + 0.004968), abs=1e-6)


def test_a_failed_training_is_counted_and_never_averaged(series):
    series.add(tasks("a", seeds=2))
    series.finish(series.claim(), FinalResult(test_accuracy=0.99), None)
    series.finish(series.claim(), FinalResult(failure="diverged: loss nan"), None)

    (summary,) = summaries(series)

    assert (summary.n_seeds, summary.failed, summary.mean, summary.sd) == (1, 1, 0.99, None)


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.RandomState(0)
    covered = [
        float(low <= 0.5 <= high) for low, high in (interval(rng.normal(0.5, 0.1, 5)) for _ in range(2000))
    ]

    assert abs(mean(covered) - 0.95) < 0.015


@pytest.mark.parametrize("judged", ["once", "every epoch"])
def test_a_training_leaves_its_last_epoch_s_weights(small_split, judged):
    from safetensors.torch import load

    result, trained = run_final_trial(
        replace(SMALL, judged=judged), small_split.train, small_split.val, ComputeMode()
    )

    network = build(SMALL.architecture, 0)
    network.load_state_dict(load(trained))
    there = evaluate(network.eval(), small_split.val)
    assert (there.accuracy, there.loss) == (result.test_accuracy, result.test_loss)
    assert [epoch["epoch"] for epoch in result.curve] == [1, 2]
    assert all(("test_accuracy" in epoch) is (judged == "every epoch") for epoch in result.curve)
    assert not any("val_accuracy" in epoch for epoch in result.curve)


def test_the_test_set_decides_nothing_in_a_final(small_split):
    training = replace(QUICK, epochs=3, schedule=Plateau(patience=0))
    task = replace(SMALL, training=training)
    other = small_split.val[:100]

    first, weights = run_final_trial(task, small_split.train, small_split.val, ComputeMode())
    second, same = run_final_trial(task, small_split.train, other, ComputeMode())

    assert weights == same
    assert first.test_accuracy != second.test_accuracy


def test_a_training_that_diverges_fails_with_its_reason(small_split):
    task = replace(SMALL, training=replace(QUICK, optimizer=SGD(1e30)))

    result, trained = run_final_trial(task, small_split.train, small_split.val, ComputeMode())

    assert result.failure.startswith("diverged: loss")
    assert (result.test_accuracy, trained) == (None, None)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("reproduce", "seed-9"), 66, "no recipe 'seed-9'"),
        (("reproduce", "all", "--data-dir", "nowhere"), 69, "nowhere is not a folder"),
        (("finalize", "budget-1500"), 66, "no study store"),
        (("finals", "budget-1500"), 66, "no study store"),
        (("finalize", "budget-1500", "--seeds", "0"), 2, "--seeds"),
    ],
)
def test_what_cannot_be_judged_is_told_in_one_line_and_leaves_nothing(
    command, tmp_path, arguments, code, said
):
    done = command(*arguments)

    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_compare_shows_reproductions_of_a_store_without_a_study(store, command, tmp_path):
    series = FinalQueue(store, REPRODUCTION)
    series.add(reproductions(["seed-001"], seeds=2))
    finish(series, 0.991)

    rows = json.loads(command("compare", "-f", "json", "--storage", f"sqlite:///{tmp_path}/store.db").out)

    shown = {row["name"]: (row["kind"], row["test_accuracy_mean"], row["n_seeds"]) for row in rows}
    assert shown["seed-001"] == ("seed", pytest.approx(0.991), 2)
    assert shown["seed-001, our training"] == ("retrained", pytest.approx(0.991), 2)
    assert shown["seed-002"] == ("seed", None, None)
    assert "seed-002, our training" not in shown


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_finals_go_on_after_kill_9_and_are_held_once(command, mnist_dir, tmp_path):
    there = ("--data-dir", mnist_dir)
    quick = ("--epochs", "1", "--train-images", "1000", "--val-images", "500", "--no-mlflow")
    assert command("run", "--budget", "1500", "--trials", "2", *quick, *there).code == 0
    finals = ("finalize", "budget-1500", "--top", "1", "--seeds", "3", "--jobs", "1", "--no-mlflow", *there)
    running = psutil.Popen(
        [sys.executable, "-m", "mnist_search", *map(str, finals)],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    running.stderr.readline()
    time.sleep(2)
    for process in [*running.children(recursive=True), running]:
        process.send_signal(signal.SIGKILL)
    running.wait()
    running.stderr.close()

    done = command(*finals, "--format", "json", timeout=280)
    again = command(*finals)
    shown = command("finals", "budget-1500", "--format", "json")

    assert done.code == 0, done.err
    assert done.err.count("on test") == 2
    (row,) = json.loads(done.out)
    assert row["n_seeds"] == 3
    assert row["low"] < row["test_accuracy_mean"] < row["high"]
    assert row["test_accuracy_mean"] > 0.5
    assert again.code == 2
    assert "have met the test set already" in again.err
    assert json.loads(shown.out) == [row]

    published = command("export", "budget-1500", "--publish")

    assert published.code == 0, published.err
    card = json.loads((tmp_path / "1500" / "card.json").read_text())
    assert (card["n_seeds"], card["test_accuracy_mean"]) == (3, row["test_accuracy_mean"])
    assert {path.name for path in (tmp_path / "1500").iterdir()} == {
        "model.pt2", "model.onnx", "model.safetensors", "card.json", "card.md",
    }  # fmt: skip
    assert command("verify", "1500/model.safetensors", *there).code == 0
