"""The queue keeps its invariants under crashes, stalls, lost connections and lost acknowledgements."""

from __future__ import annotations

import os
import time

import pytest
from simulation import FINALS, SEARCH, make_template, simulate

DEFAULT_RUN_SECONDS = 15

SEEDS = int(os.environ.get("MNIST_SEARCH_SEEDS", "500"))
"""Seeds of the slow test for each scenario; one takes half a second. More are run by hand."""

both = pytest.mark.parametrize("scenario", [SEARCH, FINALS], ids=["search", "finals"])


@both
def test_queue_keeps_its_invariants_under_faults(tmp_path, scenario):
    template = make_template(tmp_path, scenario)
    started, seed = time.monotonic(), 0

    while seed < 5 or time.monotonic() - started < DEFAULT_RUN_SECONDS:
        simulate(template, tmp_path, scenario, seed)
        seed += 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
@both
def test_queue_keeps_its_invariants_under_faults_with_many_seeds(tmp_path, scenario):
    template = make_template(tmp_path, scenario)

    for seed in range(SEEDS):
        simulate(template, tmp_path, scenario, seed)
