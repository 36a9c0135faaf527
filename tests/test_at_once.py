"""How many trainings a device carries at once."""

from __future__ import annotations

import json

import pytest
import torch

from mnist_search.training.at_once import best_number, measure, steps_per_second, trials_at_once
from mnist_search.training.crew import Crew
from mnist_search.training.device import CPU, usable_cores
from mnist_search.training.remember import remembered


@pytest.mark.parametrize(
    ("rates", "best"),
    [
        ({1: 100.0}, 1),
        ({1: 100.0, 2: 190.0, 4: 350.0}, 4),
        ({1: 100.0, 2: 190.0, 4: 195.0}, 2),  # not worth their memory
        ({1: 100.0, 2: 90.0, 4: 95.0, 8: 160.0}, 8),
        ({1: 0.0}, 1),
        ({16: 90.0, 8: 100.0, 1: 20.0}, 8),
    ],
)
def test_the_best_number_is_the_least_beyond_which_none_is_worth_it(rates, best):
    assert best_number(rates) == best


def test_processes_are_timed_together():
    rates = measure(CPU, most=2, seconds=0.05)

    assert list(rates) == ["1", "2"]
    assert all(rate > 0 for rate in rates.values())


def test_a_cpu_has_a_trial_a_core_and_needs_no_measurement(tmp_path):
    assert trials_at_once(CPU, tmp_path / "at-once.json") == usable_cores()
    assert list(tmp_path.iterdir()) == []


def test_a_number_that_was_measured_is_remembered(tmp_path):
    kept, elsewhere = tmp_path / "at-once.json", torch.device("meta")  # any device but a CPU
    more_than_cores = 2 * usable_cores()
    remembered(kept, elsewhere, lambda: {"1": 10.0, str(more_than_cores): 90.0})

    assert trials_at_once(elsewhere, kept) == 1
    kept.write_text(kept.read_text().replace(f'"{more_than_cores}"', f'"{usable_cores()}"'))
    assert trials_at_once(elsewhere, kept) == usable_cores()
    assert len(json.loads(kept.read_text())) == 1


def step_that_fails_with(error):
    def step(_):
        raise error

    return step, torch.zeros(1)


def test_a_device_without_memory_for_it_ends_the_measurement():
    full = step_that_fails_with(torch.OutOfMemoryError("CUDA out of memory"))

    assert steps_per_second(lambda: full, 0.0) is None


def test_any_other_error_is_not_taken_for_a_lack_of_memory():
    broken = step_that_fails_with(RuntimeError("no kernel"))

    with pytest.raises(RuntimeError, match="no kernel"):
        steps_per_second(lambda: broken, 0.0)


def test_some_of_a_crew_work_while_the_others_rest():
    with Crew(2, one_thread=True) as crew:
        (one,) = crew.some(1, torch.get_num_threads)
        both = crew.together(torch.get_num_threads)

    assert [one, *both] == [1, 1, 1]
