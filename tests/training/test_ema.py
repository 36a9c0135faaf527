"""The exponential moving average against torch's."""

from __future__ import annotations

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from experiments import BASELINES
from mnist_search.training.fit import fit
from mnist_search.training.model import build
from mnist_search.training.step import ExponentialMovingAverage
from search_space import TrainingConfig
from search_space.training_config import SGD


def test_average_equals_torch(small_split):
    network = build(BASELINES["seed-001"].architecture, 0)
    average = ExponentialMovingAverage(network, 0.9)
    reference = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)

    def update():
        average.update(network)
        reference.update_parameters(network)

    config = TrainingConfig(epochs=1, batch_size=20, optimizer=SGD(0.05))
    list(fit(network, small_split.train, None, config, seed=0, checkpoint=update))

    actual, expected = average.module.state_dict(), reference.module.state_dict()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    assert not torch.equal(actual["layers.0.weight"], network.state_dict()["layers.0.weight"])


def test_average_accepts_a_network_without_integer_buffers():
    network = torch.nn.Linear(2, 1, bias=False)
    average = ExponentialMovingAverage(network, 0.75)
    weights = []
    for value in (4.0, 8.0):
        torch.nn.init.constant_(network.weight, value)
        average.update(network)
        weights.append(average.module.weight.tolist())

    assert weights == [[[4.0, 4.0]], [[5.0, 5.0]]]
