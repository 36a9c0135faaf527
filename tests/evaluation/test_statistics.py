"""Statistics over seeds."""

from __future__ import annotations

from statistics import mean

import numpy as np
import pytest
from finished import finish_final

from experiments import BASELINES
from experiments.defaults import TRAINING
from mnist_search.evaluation.statistics import confidence_interval, seed_statistics
from mnist_search.records import FinalTask
from mnist_search.storage.finals import FinalsStudy


@pytest.fixture
def statistics(store):
    """Statistics of one network from the test accuracies of its seeds; None for one that diverged."""

    def make(*accuracies):
        finals = FinalsStudy.open_or_create(store, "study.finals")
        architecture = BASELINES["seed-001"].architecture
        finals.add(
            FinalTask(name="a", seed=seed, architecture=architecture, training=TRAINING)
            for seed in range(len(accuracies))
        )
        for accuracy in accuracies:
            finish_final(finals, accuracy)
        (row,) = seed_statistics(finals.record().current)
        return row

    return make


def test_seed_statistics_have_mean_sd_interval_and_worst(statistics):
    row = statistics(0.990, 0.992, 0.994)

    assert (row.name, row.parameters, row.n_seeds, row.failed) == ("a", 7204, 3, 0)
    assert row.test_accuracy_mean == pytest.approx(0.992)
    assert row.test_accuracy_sd == pytest.approx(0.002)
    assert row.worst == 0.990
    assert (row.low, row.high) == pytest.approx((0.992 - 0.004968, 0.992 + 0.004968), abs=1e-6)


def test_two_seeds_have_no_interval(statistics):
    row = statistics(0.99, 0.99)

    assert (row.n_seeds, row.test_accuracy_mean, row.low, row.high) == (2, 0.99, None, None)


def test_failed_trials_are_counted_but_not_averaged(statistics):
    row = statistics(0.99, None)

    assert (row.n_seeds, row.failed) == (1, 1)
    assert (row.test_accuracy_mean, row.test_accuracy_sd) == (0.99, None)


def test_confidence_interval_has_its_nominal_coverage():
    rng = np.random.RandomState(0)
    intervals = [confidence_interval(rng.normal(0.5, 0.1, 5)) for _ in range(2000)]

    assert abs(mean(float(low <= 0.5 <= high) for low, high in intervals) - 0.95) < 0.015
