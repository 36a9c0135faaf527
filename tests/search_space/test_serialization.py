"""What is written as plain values is read as what it was."""

from __future__ import annotations

import json

import numpy as np
import pytest

from experiments import BASELINES
from search_space import SearchSpace
from search_space.serialization import from_dict, to_dict


@pytest.mark.parametrize("name", BASELINES)
def test_a_seed_is_the_same_after_a_way_through_json(name):
    for part in (BASELINES[name].architecture, BASELINES[name].training):
        assert from_dict(json.loads(json.dumps(to_dict(part)))) == part


def test_every_kind_of_network_is_the_same_after_a_way_through_json():
    space = SearchSpace.for_budget(8000)
    rng = np.random.RandomState(0)
    for _ in range(200):
        network = space.architecture(space.draw(rng) | {"dropout": 0.1, "dropout_per": "channel"})
        assert from_dict(json.loads(json.dumps(to_dict(network)))) == network


@pytest.mark.parametrize(
    ("plain", "said"),
    [
        ({"kind": "Transformer"}, "nothing of ours is a 'Transformer'"),
        ({"kind": "Conv", "channels": 3}, "no description of a Conv"),
        ({"layers": []}, "does not say its kind"),
        ({"kind": "TrainingConfig", "epochs": 0, "batch_size": 2, "optimizer": None}, "at least 1 epoch"),
    ],
)
def test_what_describes_nothing_of_ours_is_refused(plain, said):
    with pytest.raises(ValueError, match=said):
        from_dict(plain)
