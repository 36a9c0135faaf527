"""The queue keeps its invariants under crashes, stalls and lost acknowledgements."""

from __future__ import annotations

import time

import pytest
from simulation import make_template, simulate

DEFAULT_RUN_SECONDS = 40


def test_queue_keeps_its_invariants_under_faults(tmp_path):
    template = make_template(tmp_path)
    started, seed = time.monotonic(), 0

    while seed < 5 or time.monotonic() - started < DEFAULT_RUN_SECONDS:
        simulate(template, tmp_path, seed)
        seed += 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_queue_keeps_its_invariants_under_faults_with_many_seeds(tmp_path):
    template = make_template(tmp_path)

    for seed in range(1000):
        simulate(template, tmp_path, seed)
