"""Networks beside each other: the front, and the plot of accuracy against parameters."""

from __future__ import annotations

import re

import pytest

from mnist_search.report.networks import networks_figure, networks_page, studies_front
from mnist_search.report.plots import front


def network(name, kind, parameters, budget=None, **accuracies):
    measures = dict.fromkeys(("test_accuracy_mean", "high", "val_accuracy", "claimed_test_accuracy"), None)
    return {"name": name, "kind": kind, "parameters": parameters, "budget": budget} | measures | accuracies


ROWS = [
    network("s4", "study", 3900, 4000, val_accuracy=0.99, test_accuracy_mean=0.991, high=0.992),
    network("s2", "study", 1990, 2000, val_accuracy=0.985),
    network("s8", "study", 7900, 8000, val_accuracy=0.989, test_accuracy_mean=0.9905),
    network("seed-1", "seed", 7204, claimed_test_accuracy=0.993, test_accuracy_mean=0.992, high=0.993),
    network("seed-1, our training", "retrained", 7204, test_accuracy_mean=0.994, high=0.995),
    network("other", "published", 6260, claimed_test_accuracy=0.9944),
]


@pytest.mark.parametrize(
    ("points", "best"),
    [
        ([], []),
        ([(1, 0.5)], [(1, 0.5)]),
        ([(2, 0.5), (1, 0.6)], [(1, 0.6)]),
        ([(2, 0.7), (1, 0.6), (3, 0.7)], [(1, 0.6), (2, 0.7)]),
        ([(1, 0.5), (1, 0.6)], [(1, 0.6)]),
    ],
)
def test_on_the_front_is_what_nothing_as_small_beats(points, best):
    assert front(points, lambda p: p[0], lambda p: p[1]) == best


def test_only_studies_are_on_our_front():
    assert [row["name"] for row in studies_front(ROWS, "val_accuracy")] == ["s2", "s4"]


def test_every_network_is_drawn_by_every_measure_there_is_of_it():
    figure = networks_figure(ROWS)

    points = {
        (trace.name, *point) for trace in figure.data for point in zip(trace.text, trace.y, strict=True)
    }
    assert ("our studies, test mean of several seeds", "s4", 99.1) in points
    assert ("our studies, validation, which the search chose by", "s2", 98.5) in points
    assert ("seeds as claimed", "seed-1", 99.3) in points
    assert ("seeds reproduced, test mean of several seeds", "seed-1", 99.2) in points
    assert ("the seeds' networks, our training", "seed-1, our training", 99.4) in points
    assert ("published, mostly single runs", "other", 99.44) in points
    assert {shape.x0 for shape in figure.layout.shapes} == {2000, 4000, 8000}


def test_the_front_is_drawn_by_test_means_where_there_are_two():
    smaller = network("s1", "study", 990, 1000, val_accuracy=0.97, test_accuracy_mean=0.975)

    (line,) = (trace for trace in networks_figure([*ROWS, smaller]).data if trace.mode == "lines")

    assert list(line.text) == ["s1", "s4"]


def test_a_test_mean_has_its_interval():
    (ours,) = (t for t in networks_figure(ROWS).data if t.name.startswith("our studies, test"))

    assert dict(zip(ours.text, ours.error_y.array, strict=True)) == pytest.approx({"s4": 0.1, "s8": 0.0})


def test_the_page_asks_the_network_for_nothing():
    page = networks_page(ROWS)

    assert "plotly" in page.lower()
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=.https?:", page)
