"""The estimate of what is left of a study."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from rich.console import Console

from experiments import BASELINES, StudyConfig
from mnist_search.execution.estimate import N_ASSUMED, duration, estimate
from mnist_search.execution.live_table import RunningTrial, epochs_text, left_text, listed, live_table
from mnist_search.records import EpochMetrics, FinalsRecord, FinalStage, FinalTask, StudyRecord, TrialRecord

START = datetime(2026, 11, 27)  # noqa: DTZ001 - as Optuna stores it


def trial(number, state, epochs, *, seconds=10.0, wall_time=None, task=None):
    """A trial with epochs of ``seconds`` each."""
    duration = seconds * epochs if wall_time is None else wall_time
    return TrialRecord(
        number=number,
        trial_id=number,
        state=state,
        params={},
        num_params=1000,
        val_accuracy=None,
        val_loss=None,
        curve=[EpochMetrics(epoch=n + 1, seconds=seconds) for n in range(epochs)],
        started=START,
        completed=None if state == "RUNNING" else START + timedelta(seconds=duration),
        task=task,
    )


def study(trials, *, n_trials, pruner="none"):
    config = replace(StudyConfig.for_budget(8000), pruner=pruner)  # 15 epochs
    return StudyRecord(name="s", uid="u", trials=trials, config=config, n_trials=n_trials)


def test_without_a_pruner_every_trial_takes_its_epochs():
    record = study([trial(0, "COMPLETE", 15), trial(1, "RUNNING", 5)], n_trials=4)

    result = estimate(record, {1: 5}, jobs=1)

    assert (result.trained, result.left, result.total) == (20, 40.0, 60.0)
    assert (result.share, result.is_exact) == (20 / 60, True)
    assert (result.seconds_left, result.seconds_running) == (400.0, 100.0)


def final_task(epochs, **values):
    recipe = BASELINES["seed-001"]
    training = replace(recipe.training, epochs=epochs)
    values = {"name": "trial 1", "seed": 0} | values
    return FinalTask(architecture=recipe.architecture, training=training, **values)


def test_seconds_of_final_trials_are_proportional_to_their_images():
    task = final_task(epochs=4)
    repeat = replace(task, seed=100, split=(30_000, 1000, 0))
    trials = [
        trial(0, "COMPLETE", 4, seconds=1.0, task=repeat),
        trial(1, "RUNNING", 0, task=task),
        trial(2, "WAITING", 0, task=replace(task, seed=1)),
    ]

    record = FinalsRecord(name="s.finals", uid="u", trials=trials)

    assert estimate(record, {1: 0}, jobs=1).seconds_left == pytest.approx(16.0)  # 8 epochs of 2 s


def test_later_stages_of_finals_count():
    repeat = final_task(epochs=4, seed=100, split=(30_000, 1000, 0))
    trials = [
        trial(0, "COMPLETE", 4, seconds=1.0, task=repeat),
        trial(1, "WAITING", 0, task=replace(repeat, name="trial 2")),
    ]
    later = [FinalStage(n_trials=1, epochs=4, images=30_000), FinalStage(n_trials=5, epochs=4, images=60_000)]
    record = FinalsRecord(name="s.finals", uid="u", trials=trials, later=later)

    result = estimate(record, {}, jobs=2)

    assert (record.n_trials, record.n_left, result.total) == (8, 1, 32.0)
    assert result.share == pytest.approx(4 * 0.5 / (4 * 3 * 0.5 + 5 * 4))
    assert result.seconds_left == pytest.approx(4 + 4 + 3 * 4 * 2)  # two jobs: three rounds of full trainings


def test_jobs_share_the_trials_and_the_longest_job_counts():
    record = study([trial(0, "COMPLETE", 15)], n_trials=4)

    assert estimate(record, {}, jobs=2).seconds_left == 300.0  # three trials, two jobs
    assert estimate(record, {}, jobs=16).seconds_left == 150.0


def test_time_is_unknown_before_the_first_epoch():
    result = estimate(study([trial(0, "RUNNING", 0)], n_trials=2), {0: 0}, jobs=1)

    assert (result.left, result.seconds_left) == (30.0, None)


def test_trial_of_another_command_counts_as_running():
    record = study([trial(0, "RUNNING", 3), trial(1, "RUNNING", 3)], n_trials=2)

    assert estimate(record, {0: 3, 1: 3}, jobs=2).seconds_left == 120.0


def test_screening_is_expected_to_train_three_to_five_epochs_a_trial():
    left = estimate(study([], n_trials=50, pruner="screening"), {}, jobs=1).left

    assert 3 * 50 < left < 5 * 50


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_screening_of_short_trials_has_an_estimate(epochs):
    config = StudyConfig.for_budget(8000, epochs=epochs)
    record = StudyRecord(name="s", uid="u", trials=[], config=config, n_trials=10)

    assert 10 <= estimate(record, {}, jobs=1).left <= 10 * epochs


def test_epochs_under_a_pruner_are_about_right_and_those_of_a_finished_study_exact():
    running = estimate(study([trial(0, "COMPLETE", 15)], n_trials=2, pruner="asha"), {}, jobs=1)
    done = estimate(study([trial(0, "COMPLETE", 15)], n_trials=1, pruner="asha"), {}, jobs=1)

    assert epochs_text(running).startswith("15 of about ")
    assert epochs_text(done) == "15 of 15 epochs"


def test_a_pruner_makes_the_estimate_shorter_from_the_start():
    trials = [trial(0, "RUNNING", 1)]

    with_pruner = estimate(study(trials, n_trials=50, pruner="asha"), {0: 1}, jobs=1)
    without = estimate(study(trials, n_trials=50), {0: 1}, jobs=1)

    assert 0.4 * without.left < with_pruner.left < without.left


def test_estimate_follows_the_trials_of_the_study():
    pruned = [trial(n, "PRUNED", 5) for n in range(200)]
    complete = [trial(n, "COMPLETE", 15) for n in range(200)]

    short = estimate(study(pruned, n_trials=300, pruner="asha"), {}, jobs=1).left / 100
    full = estimate(study(complete, n_trials=300, pruner="asha"), {}, jobs=1).left / 100

    assert 5 < short < 5.5
    assert 14.5 < full < 15


def test_running_trials_that_outlast_the_finished_ones_make_the_estimate_longer():
    pruned = [trial(n, "PRUNED", 5) for n in range(6)]
    running = [trial(n + 6, "RUNNING", 14) for n in range(6)]
    with_running = study([*pruned, *running], n_trials=100, pruner="asha")

    longer = estimate(with_running, {t.number: 14 for t in running}, jobs=6).left
    shorter = estimate(study(pruned, n_trials=94, pruner="asha"), {}, jobs=6).left

    assert longer > 1.2 * shorter
    assert N_ASSUMED > 0


def test_time_that_the_computer_was_suspended_does_not_count():
    record = study([trial(0, "COMPLETE", 15, wall_time=8 * 3600)], n_trials=2)

    assert estimate(record, {}, jobs=1).seconds_left == 300.0


def test_final_trials_have_their_own_numbers_of_epochs():
    tasks = [final_task(epochs, name=f"trial {n}") for n, epochs in enumerate((10, 20, 30))]
    states = ("COMPLETE", "RUNNING", "WAITING")
    trials = [
        trial(n, state, epochs, task=tasks[n])
        for n, (state, epochs) in enumerate(zip(states, (10, 5, 0), strict=True))
    ]

    result = estimate(FinalsRecord(name="s.finals", uid="u", trials=trials), {1: 5}, jobs=2)

    assert (result.trained, result.left) == (15, 45.0)
    assert result.seconds_left == 300.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (40, "40 s"), (60, "1 min"), (1620, "27 min"), (3599, "1 h 0 min"), (8820, "2 h 27 min")],
)
def test_duration_in_words(seconds, text):
    assert duration(seconds) == text


def test_time_left_in_words():
    running = estimate(study([trial(0, "RUNNING", 15)], n_trials=1), {0: 15}, jobs=1)
    done = estimate(study([trial(0, "COMPLETE", 15)], n_trials=1), {}, jobs=1)

    assert left_text(running, 0.0, 1) == "less than 1 min left"
    assert left_text(running, 8820.0, 1) == "about 2 h 27 min left"
    assert left_text(running, 100.0, 1) == "about 1.5 min left"
    assert left_text(running, 601.0, 1) == "about 10 min left"
    assert left_text(running, None, 1) == "time left: unknown"
    assert left_text(done, 0.0, 0) == "done"


def test_trials_are_listed_in_words():
    assert [listed(["a", "b", "c"][:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]


@pytest.mark.parametrize(("accuracy", "has_column"), [(None, False), (0.5, True)])
def test_table_of_finals_has_a_column_for_accuracies_of_running_trials_only_if_there_are_any(
    accuracy, has_column
):
    record = FinalsRecord(name="s.finals", uid="u", trials=[])
    row = RunningTrial("trial 1, seed 0", 1000, 1, 4, accuracy, 1000.0)
    console = Console(width=100)

    with console.capture() as capture:
        console.print(live_table(record, [row], estimate(record, {}, jobs=1), "", ""))

    assert ("accuracy" in capture.get()) == has_column
