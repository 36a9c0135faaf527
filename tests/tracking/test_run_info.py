"""Content of runs and models from stored trials."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tracked_trials import final_task, train

from mnist_search.tracking.run_info import final_run_info, kept_network, run_info
from mnist_search.training.model import count


def test_run_info_has_the_params_of_the_trial(search_study):
    train(search_study)
    record = search_study.record()

    info = run_info(record, record.trials[0])

    assert info.name == "s trial 0"
    assert info.params["budget"] == 1500
    assert len(info.params) <= 25
    assert "\n" in info.layer_table


def test_trial_without_params_has_no_run_info(search_study):
    train(search_study)
    record = search_study.record()
    trial = record.trials[0]

    assert run_info(record, replace(trial, params={})) is None
    assert run_info(record, replace(trial, num_params=None)) is None


def test_final_run_info_has_the_architecture_and_the_training():
    info = final_run_info("s", final_task(seed=2))

    assert (info.role, info.name) == ("final", "s final trial 3 seed 2")
    assert final_run_info("s", replace(final_task(), round=2)).name == "s final trial 3 seed 0 round 2"
    assert (info.params["schedule"], info.params["final_seed"]) == ("plateau", 2)
    assert len(info.params) <= 25


def test_kept_network_is_counted_from_the_stored_weights(search_study, study):
    train(search_study, keep=1)
    record = search_study.record()
    trial = record.trials[0]
    weights = study.weights_of(trial)

    assert count(kept_network(record, trial, weights)) == trial.num_params
    with pytest.raises(ValueError, match="trial 0 has"):
        kept_network(replace(record, config=replace(record.config, budget=100)), trial, weights)
