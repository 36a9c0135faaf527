"""Round trips of architectures and training configurations."""

from __future__ import annotations

import json

import numpy as np
import pytest

from experiments import BASELINES
from search_space import SearchSpace
from search_space.serialization import from_dict, to_dict


@pytest.mark.parametrize("name", BASELINES)
def test_baseline_survives_a_json_round_trip(name):
    for part in (BASELINES[name].architecture, BASELINES[name].training):
        assert from_dict(json.loads(json.dumps(to_dict(part)))) == part


def test_random_architecture_survives_a_json_round_trip():
    space = SearchSpace.for_budget(8000)
    rng = np.random.RandomState(0)
    for _ in range(200):
        network = space.architecture(space.draw(rng) | {"dropout": 0.1, "dropout_per": "channel"})
        assert from_dict(json.loads(json.dumps(to_dict(network)))) == network


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"kind": "Transformer"}, "unknown kind 'Transformer'"),
        ({"kind": "Conv", "channels": 3}, "not a valid Conv"),
        ({"layers": []}, "has no kind"),
        ({"kind": "TrainingConfig", "epochs": 0, "batch_size": 2, "optimizer": None}, "at least 1 epoch"),
    ],
)
def test_invalid_dict_is_refused(plain, message):
    with pytest.raises(ValueError, match=message):
        from_dict(plain)
