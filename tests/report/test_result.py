"""The result of a study and the commands that repeat it."""

from __future__ import annotations

import shlex

import pytest
from finished import complete_trial, finish_finals

from experiments import StudyConfig
from mnist_search.evaluation.statistics import final_rows
from mnist_search.report.result import run_command, study_result
from mnist_search.search.study import SearchStudy
from mnist_search.storage.software import software


@pytest.fixture
def search_study(store, study_config):
    search_study = SearchStudy.open_or_create(store, "budget-1500", study_config, 5)
    for accuracy in (0.97, 0.98, 0.96):
        complete_trial(search_study, accuracy)
    return search_study


def test_result_without_finals_is_a_validation_accuracy_with_its_bias_named(search_study, store):
    result = study_result(store, search_study.record(), [], has_templates=True)

    assert (result.trial.number, result.measure, result.accuracy) == (1, "validation accuracy", 0.98)
    assert 0.96 < result.low < 0.98 < result.high < 0.99  # 500 images
    assert "best of 3 complete trials, which biases it upwards" in result.evidence
    assert "mnist-search finalize budget-1500" in result.evidence
    assert len(result.commands) == 1
    assert result.commit == result.trial.software.get("commit") == software().get("commit")


def test_result_after_finals_is_the_mean_test_accuracy_with_its_interval(search_study, store):
    record = search_study.record()
    finish_finals(store, record, (0.9912, 0.9934, 0.9956), top=1, seeds=3)

    result = study_result(store, record, final_rows(store, record), has_templates=True)

    assert (result.measure, result.accuracy) == ("test accuracy", pytest.approx(0.9934))
    assert (result.low, result.high) == (pytest.approx(0.98793, abs=1e-5), pytest.approx(0.99887, abs=1e-5))
    assert "mean of 3 seeds" in result.evidence
    assert "worst seed has 99.12 %" in result.evidence
    assert result.commands[1] == "mnist-search finalize budget-1500 --top 1 --seeds 3"


def test_result_of_one_seed_has_no_interval(search_study, store):
    record = search_study.record()
    finish_finals(store, record, (0.9912,), top=1, seeds=1)

    result = study_result(store, record, final_rows(store, record), has_templates=True)

    assert (result.accuracy, result.low, result.high) == (0.9912, None, None)
    assert "one seed" in result.evidence


def record_of(store, name, config, n_trials=50):
    return SearchStudy.open_or_create(store, name, config, n_trials).record()


def test_command_of_a_default_study_names_budget_and_trials_only(store):
    record = record_of(store, "budget-8000", StudyConfig.for_budget(8000))

    assert run_command(record, has_templates=True) == "mnist-search run --budget 8000 --trials 50"


def test_command_without_options_would_search_for_something_else(store, command, tmp_path):
    bounds = {"depth": (3, 4), "width": (3, 9), "epochs": 2}
    config = StudyConfig.for_budget(
        1500,
        **bounds,
        sampler="random",
        pruner="median",
        seed=7,
        fill=False,
        train_images=2000,
        val_images=300,
    )
    record = record_of(store, "mine", config, 6)
    text = run_command(record, has_templates=False)

    repeated = command(*shlex.split(text)[1:], "--dry-run", "--storage", f"sqlite:///{tmp_path}/new.db")
    stored = command("run", "--budget", "1500", "--study", "mine", "--dry-run", "--storage", store.url)

    assert (repeated.code, stored.code) == (0, 0)
    assert repeated.out == stored.out
    for option in (
        "--sampler random",
        "--pruner median",
        "--no-fill",
        "--warm-start none",
        "--val-images 300",
    ):
        assert option in text


def test_command_names_the_bounds_where_the_default_bounds_have_no_network(store):
    config = StudyConfig.for_budget(200, width=(1, 3), depth=(3, 3))

    text = run_command(record_of(store, "tiny", config), has_templates=True)

    assert "--width 1:3" in text
    assert "--depth 3:3" in text
