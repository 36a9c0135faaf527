"""Content of runs and models from stored trials."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import save
from tracked_trials import final_task, train

from mnist_search.tracking.run_info import final_payload, final_run_info, search_payload, search_run_info
from mnist_search.training.model import build


def test_search_run_info_has_the_params_of_the_trial(search_study):
    train(search_study)
    record = search_study.record()

    info = search_run_info(record, record.trials[0])

    assert info.name == "s trial 0"
    assert (info.params["budget"], info.num_params) == (1500, record.trials[0].num_params)
    assert len(info.params) <= 25
    assert "\n" in info.layer_table


def test_trial_without_params_has_no_run_info(search_study):
    train(search_study)
    record = search_study.record()
    trial = record.trials[0]

    assert search_run_info(record, replace(trial, params={})) is None
    assert search_run_info(record, replace(trial, num_params=None)) is None


def test_final_run_info_has_the_architecture_and_the_training():
    info = final_run_info("s", final_task(seed=2))

    assert (info.role, info.prefix, info.num_params) == ("final", "test", 7204)
    assert (info.params["schedule"], info.params["final_seed"]) == ("plateau", 2)
    assert len(info.params) <= 25


def test_model_is_counted_and_evaluated_from_the_stored_weights(search_study, study, small_split):
    train(search_study, keep=1)
    record = search_study.record()
    trial = record.trials[0]

    payload = search_payload(record, trial, study.weights_of(trial), small_split.val)

    assert (payload.num_params, payload.step) == (trial.num_params, 2)
    assert payload.confusion.sum() == len(small_split.val)
    assert (payload.example.shape, payload.example.dtype) == ((2, 1, 28, 28), np.float32)
    assert 0 <= payload.example.min() <= payload.example.max() <= 1
    assert not payload.network.training


def test_model_over_the_budget_is_refused(search_study, study, small_split):
    train(search_study, keep=1)
    record = search_study.record()
    smaller = replace(record, config=replace(record.config, budget=100))

    with pytest.raises(ValueError, match="trial 0 has"):
        search_payload(smaller, record.trials[0], study.weights_of(record.trials[0]), small_split.val)


def test_model_of_a_final_is_evaluated_on_the_test_images(digits):
    task = final_task()
    weights = save(build(task.architecture, seed=0).state_dict())

    payload = final_payload(task, weights, digits)

    assert (payload.evaluated_on, payload.num_params) == ("test images", 7204)
    assert payload.confusion.sum() == len(digits)
