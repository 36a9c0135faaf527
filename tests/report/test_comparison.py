"""Rows, Pareto fronts, figure and leaderboard of the comparison."""

from __future__ import annotations

import pytest

from mnist_search.report.comparison import COLUMNS, DETAILS, leaderboard, pareto_front, studies_front
from mnist_search.report.plots import comparison_figure


def row(name, kind, parameters, **values):
    return (
        dict.fromkeys((*COLUMNS, *DETAILS)) | {"name": name, "kind": kind, "parameters": parameters} | values
    )


ROWS = [
    row("s4", "study", 3900, budget=4000, val_accuracy=0.99, test_accuracy_mean=0.991, low=0.989, high=0.992),
    row("s2", "study", 1990, budget=2000, val_accuracy=0.985),
    row("s8", "study", 7900, budget=8000, val_accuracy=0.989, test_accuracy_mean=0.9905),
    row("seed-1", "baseline", 7204, reported_test_accuracy=0.993, test_accuracy_mean=0.992, high=0.993),
    row("seed-1, default training", "retrained", 7204, test_accuracy_mean=0.994, high=0.995),
    row("other", "published", 6260, reported_test_accuracy=0.9944, reported="one run"),
]


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([], []),
        ([(1, 0.5)], [(1, 0.5)]),
        ([(2, 0.5), (1, 0.6)], [(1, 0.6)]),
        ([(2, 0.7), (1, 0.6), (3, 0.7)], [(1, 0.6), (2, 0.7)]),
        ([(1, 0.5), (1, 0.6)], [(1, 0.6)]),
    ],
)
def test_pareto_front_holds_points_better_than_all_of_their_size_or_smaller(points, front):
    rows = [{"parameters": parameters, "score": score} for parameters, score in points]

    assert [tuple(row.values()) for row in pareto_front(rows, "score")] == front


def test_front_of_the_studies_ignores_other_networks():
    assert [row["name"] for row in studies_front(ROWS, "val_accuracy")] == ["s2", "s4"]


def test_every_network_is_plotted_by_every_measure():
    figure = comparison_figure(ROWS)

    points = {
        (trace.name, *point)
        for trace in figure.data
        for point in zip(trace.text, trace.customdata, strict=True)
    }
    assert ("best of a study: test, mean over seeds", "s4", 99.1) in points
    assert ("best of a study: validation, used for selection", "s2", 98.5) in points
    assert ("baselines as reported", "seed-1", 99.3) in points
    assert ("baselines reproduced: test, mean over seeds", "seed-1", 99.2) in points
    assert ("baselines, default training: test, mean over seeds", "seed-1, default training", 99.4) in points
    assert ("published by others, mostly single runs", "other", 99.44) in points
    assert {shape.x0 for shape in figure.layout.shapes} == {2000, 4000, 8000}


def test_front_is_plotted_by_test_means_when_two_studies_have_them():
    smaller = row("s1", "study", 990, budget=1000, val_accuracy=0.97, test_accuracy_mean=0.975)

    (line,) = (trace for trace in comparison_figure([*ROWS, smaller]).data if trace.mode == "lines")

    assert list(line.text) == ["s1", "s4"]


def test_test_means_are_plotted_with_their_interval():
    (studies,) = (t for t in comparison_figure(ROWS).data if t.name.startswith("best of a study: test"))

    bars = zip(studies.text, studies.error_y.array, studies.error_y.arrayminus, strict=True)
    intervals = {name: bar for name, *bar in bars}
    assert intervals == {"s4": pytest.approx([0.2, 0.1]), "s8": [0, 0]}


def test_leaderboard_ranks_networks_by_accuracy_and_omits_studies_without_one():
    measured = {"epochs": 2, "seconds": 1.0, "device": "cpu", "trials": 5}
    empty = row("empty", "study", None, budget=3000)

    lines = leaderboard([network | measured for network in [empty, *ROWS]]).splitlines()[2:]

    names = [line.split("|")[1].strip() for line in lines]
    assert names == ["other", "seed-1, default training", "seed-1", "s4", "s8", "s2"]
    assert lines[-1] == "| s2 | 1,990 | 98.50 % | 1 | validation, best of 5 trials, 2 epochs |"
    assert lines[0].endswith("reported: one run |")
