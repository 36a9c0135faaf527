"""The axis of accuracies and round numbers of parameters."""

from __future__ import annotations

from itertools import pairwise
from math import log10

import pytest

from mnist_search.report.axes import MAX_TICKS, accuracy_axis, error, parameter_ticks


@pytest.mark.parametrize("best", [0.1, 0.6, 0.97, 0.9947, 0.9995, 1.0])
def test_axis_shows_the_best_network_and_98_to_99_8_percent_on_any_scale(best):
    axis = accuracy_axis("accuracy", [best, 0.05])

    highest, lowest = (10**exponent for exponent in axis["range"])
    assert lowest <= error(best) <= highest
    assert lowest <= 0.2001
    assert highest >= 1.999
    assert 4 <= len(axis["tickvals"]) <= MAX_TICKS


def test_axis_of_a_good_study_has_labels_between_99_and_99_8_percent():
    axis = accuracy_axis("accuracy", [0.9947])

    labels = dict(zip(axis["ticktext"], axis["tickvals"], strict=True))
    assert {"98 %", "99 %", "99.5 %", "99.6 %", "99.7 %", "99.8 %"} <= set(labels)
    assert labels["99.5 %"] == 0.5


def test_labels_do_not_overlap_on_a_wide_axis():
    axis = accuracy_axis("accuracy", [0.2])

    places = sorted(map(log10, axis["tickvals"]))
    distance = (axis["range"][0] - axis["range"][1]) / MAX_TICKS
    assert min(b - a for a, b in pairwise(places)) >= 0.999 * distance


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (600, 26_000, [1000, 2000, 5000, 10_000, 20_000]),
        (7280, 8040, [7400, 7600, 7800, 8000]),
        (1000, 1002, [1000, 1001, 1002]),
        (999.5, 1000.5, [1000]),
    ],
)
def test_numbers_of_parameters_are_round(low, high, ticks):
    assert parameter_ticks(low, high) == ticks
