"""Figures of the report, from records without a store."""

from __future__ import annotations

from dataclasses import replace
from math import log10

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import create_trial

from experiments import StudyConfig
from mnist_search.records import EpochMetrics, StudyRecord, TrialRecord
from mnist_search.report.comparison import published_rows
from mnist_search.report.plots import accuracy_figure
from mnist_search.report.study_plots import (
    HIGHLIGHTED,
    MIN_TRIALS,
    curves_figure,
    displayed_study,
    history_figure,
    importance_figure,
    importances,
    parallel_figure,
    param_words,
    varying_params,
)


def trial(number, accuracy, state="COMPLETE", epochs=2):
    return TrialRecord(
        number=number, trial_id=number, state=state, params={}, num_params=7000 + 100 * number,
        val_accuracy=accuracy, val_loss=0.1,
        curve=[EpochMetrics(epoch=epoch, val_accuracy=accuracy) for epoch in range(1, epochs + 1)],
    )  # fmt: skip


@pytest.fixture
def record():
    trials = [
        trial(0, 0.97),
        trial(1, 0.985),
        trial(2, 0.6, "PRUNED", 1),
        trial(3, 0.98),
        trial(4, None, "WAITING", 0),
    ]
    return StudyRecord(name="s", uid="u", trials=trials, config=StudyConfig.for_budget(8000), n_trials=5)


def traces(figure):
    return {trace.name: trace for trace in figure.data}


def test_accuracy_figure_shows_trials_front_and_published_networks(record):
    figure = accuracy_figure(record, published_rows())

    shown = traces(figure)
    assert list(shown["complete trials: validation"].customdata) == [98.5, 98.0, 97.0]
    assert list(shown["complete trials: validation"].y) == pytest.approx([1.5, 2.0, 3.0])
    assert list(shown["Pareto front of the trials"].text) == ["trial 0", "trial 1"]
    assert len(shown["published by others, mostly single runs"].x) == len(published_rows())


def test_buttons_of_the_accuracy_figure_select_all_networks_or_the_study(record):
    buttons = accuracy_figure(record, published_rows()).layout.updatemenus[0].buttons

    everything, study = (button.args[0]["xaxis.range"] for button in buttons)
    assert everything[0] < study[0] < study[1] < everything[1]


def test_history_shows_pruned_trials_and_the_best_so_far(record):
    shown = traces(history_figure(record))

    assert list(shown["best so far"].x) == [0, 1, 3]
    assert list(shown["best so far"].customdata) == [97.0, 98.5, 98.5]
    assert list(shown["pruned trials, after their last epoch"].x) == [2]


def test_learning_curves_name_the_best_trials_and_join_the_others(record):
    figure = curves_figure(record)

    assert [trace.name for trace in figure.data] == [
        "other trials", "trial 1 (98.50 %)", "trial 3 (98.00 %)", "trial 0 (97.00 %)",
    ]  # fmt: skip
    assert list(figure.data[0].x) == [1, None, None]


def test_learning_curves_of_a_large_study_have_few_traces(record):
    many = [trial(number, 0.9 + number / 10_000) for number in range(500)]

    figure = curves_figure(StudyRecord(name="s", uid="u", trials=many, config=record.config, n_trials=500))

    assert len(figure.data) == HIGHLIGHTED + 1


def test_axis_shows_nine_of_ten_points_and_says_what_it_leaves_out(record):
    assert history_figure(record).layout.yaxis.range[0] == pytest.approx(log10(1.05 * 40))
    assert not history_figure(record).layout.annotations

    trials = [*(trial(number, 0.96) for number in range(20)), trial(20, 0.6, "PRUNED", 1)]
    figure = curves_figure(replace(record, trials=trials))

    (note,) = figure.layout.annotations
    assert note.text == "1 point below 92 % not shown; Autoscale shows all"


def test_trials_below_the_axis_of_accuracy_against_parameters_are_counted(record):
    trials = [*(trial(number, 0.99) for number in range(3)), trial(3, 0.3), trial(4, 0.4)]

    figure = accuracy_figure(replace(record, trials=trials), [])

    notes = [note.text for note in figure.layout.annotations if "not shown" in note.text]
    assert notes == ["2 points below 98 % not shown; Autoscale shows all"]


def finished_study(n, rates):
    """A study whose trials have the learning rates of two optimizers, and one that is complete with one rate."""
    study = optuna.create_study(direction="maximize")
    for number in range(n):
        optimizer = "sgd" if number % 2 else "adamw"
        study.add_trial(
            create_trial(
                value=number / n,
                params={
                    "optimizer": optimizer,
                    "sgd_lr": rates[0],
                    "adamw_lr": rates[1],
                    "depth": number % 3,
                },
                distributions={
                    "optimizer": CategoricalDistribution(("sgd", "adamw")),
                    "sgd_lr": FloatDistribution(0.01, 1.0, log=True),
                    "adamw_lr": FloatDistribution(0.001, 0.1, log=True),
                    "depth": IntDistribution(0, 3),
                },
            )
        )
    return study


def test_displayed_trials_have_the_learning_rate_of_their_optimizer():
    displayed = displayed_study(finished_study(4, (0.2, 0.02)))

    assert [trial.params["peak_lr"] for trial in displayed.trials] == [0.02, 0.2, 0.02, 0.2]
    assert varying_params(displayed) == ["optimizer", "depth", "peak_lr"]
    assert [trial.value for trial in displayed.trials] == [0.0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize("n", [MIN_TRIALS - 1, MIN_TRIALS])
def test_importance_needs_ten_complete_trials(n):
    shares = importances(displayed_study(finished_study(n, (0.2, 0.02))))

    assert bool(shares) is (n >= MIN_TRIALS)


def test_least_accurate_line_of_the_parallel_coordinates_is_visible():
    figure = parallel_figure(displayed_study(finished_study(5, (0.2, 0.02))), ["depth", "peak_lr"])

    colors = [trace.line.color for trace in figure.data if trace.line.color]
    assert len(colors) >= 5
    assert not any(color.startswith("rgb(2") for color in colors)


def test_params_are_named_in_words(record):
    names = [param_words(name) for name in record.config.space.distributions]

    assert len(set(names)) == len(names)
    assert not any("_" in name for name in names)


def test_axes_are_named(record):
    figures = [
        accuracy_figure(record, published_rows()),
        history_figure(record),
        curves_figure(record),
        importance_figure({"depth": 0.75, "width_1": 0.25}),
    ]

    assert all(figure.layout.xaxis.title.text for figure in figures)
    assert [figure.layout.yaxis.title.text for figure in figures[:3]] == [
        "accuracy (error in log scale)",
        "validation accuracy (error in log scale)",
        "validation accuracy (error in log scale)",
    ]
    assert list(figures[3].data[0].y) == ["channels, block 1", "blocks"]
