"""A step asks the device for nothing, an average is torch's, the fastest way is measured once."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
import torch
from fakes import Overheard
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from experiments import SEEDS
from mnist_search.errors import UnusableConfiguration
from mnist_search.training.average import WeightAverage
from mnist_search.training.device import CPU
from mnist_search.training.digits import Digits
from mnist_search.training.fit import STEPS_BETWEEN_CHECKS, Diverged, fit
from mnist_search.training.model import TORCH, Network, build
from mnist_search.training.optim import LearningRate, make_optimizer
from mnist_search.training.probe import fastest_way, measure, ways
from mnist_search.training.step import LossWatch, TrainStep, Way
from search_space import TrainingConfig
from search_space.training import SGD, Adam, Augmentation, OneCycle

ONE_BY_ONE = {"aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::nonzero"}
"""Operations for which the host waits until the device has come to them."""

CONFIG = TrainingConfig(
    epochs=2, batch_size=50, optimizer=SGD(0.05), schedule=OneCycle(),
    augmentation=Augmentation.of_strength(0.5), ema_decay=0.9,
)  # fmt: skip


@pytest.mark.parametrize("optimizer", [SGD(0.05), Adam(0.01, decoupled=True)])
def test_no_step_waits_for_the_device(small_split, optimizer):
    network = build(SEEDS["seed-001"].architecture, 0, TORCH)
    torch_optimizer = make_optimizer(network.parameters(), optimizer)
    step = TrainStep(network, torch_optimizer, small_split.train, CONFIG, Way("bf16"))
    rate = LearningRate(torch_optimizer, CONFIG.schedule, epochs=2, steps_per_epoch=20)
    average = WeightAverage(network, 0.9)

    with Overheard() as operations:
        for start in (0, 50):
            step(torch.arange(start, start + 50))
            rate.after_step()
            average.update(network)

    assert "aten::convolution_backward" in operations.names
    assert not operations.names & ONE_BY_ONE


@pytest.mark.parametrize("name", SEEDS)
def test_everything_of_a_forward_pass_lies_on_the_device(name):
    """Fake tensors refuse to mix devices, so a GPU can be stood in for where there is none."""
    recipe = SEEDS[name]
    with FakeTensorMode(), torch.device("cuda"):
        network = Network(recipe.architecture)
        train = Digits(torch.empty(200, 1, 28, 28, dtype=torch.uint8), torch.empty(200, dtype=torch.int64))
        optimizer = make_optimizer(network.parameters(), recipe.training.optimizer)
        step = TrainStep(network, optimizer, train, recipe.training, Way())

        loss, right = step.forward(torch.empty(128, dtype=torch.int64))

    assert loss.device.type == right.device.type == "cuda"


def test_an_average_of_weights_is_torch_s_own(small_split):
    network = build(SEEDS["seed-001"].architecture, 0)
    ours = WeightAverage(network, 0.9)
    torch_s = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)

    def both():
        ours.update(network)
        torch_s.update_parameters(network)

    config = TrainingConfig(epochs=1, batch_size=20, optimizer=SGD(0.05))
    list(fit(network, small_split.train, None, config, seed=0, checkpoint=both))

    mine, theirs = ours.module.state_dict(), torch_s.module.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert not torch.equal(mine["layers.0.weight"], network.state_dict()["layers.0.weight"])


def test_an_average_takes_networks_without_counts():
    network = torch.nn.Linear(2, 1, bias=False)
    average = WeightAverage(network, 0.75)
    weights = []
    for level in (4.0, 8.0):
        torch.nn.init.constant_(network.weight, level)
        average.update(network)
        weights.append(average.module.weight.tolist())

    assert weights == [[[4.0, 4.0]], [[5.0, 5.0]]]


def test_a_watch_gives_the_mean_since_the_last_look():
    seen = []
    watch = LossWatch(lambda loss, where: seen.append((loss, where)))

    watch.look(torch.tensor(20.0), 10, "step 10")
    watch.look(torch.tensor(50.0), 15, "step 15")
    watch.arrive()

    assert seen == [(2.0, "step 10"), (6.0, "step 15")]


def test_a_loss_that_is_no_number_ends_the_epoch_at_the_next_look(small_split):
    network = build(SEEDS["seed-001"].architecture, 0)
    config = TrainingConfig(epochs=1, batch_size=10, optimizer=SGD(1e30))
    steps = []

    with pytest.raises(Diverged, match=f"step {STEPS_BETWEEN_CHECKS} of epoch 1"):
        list(fit(network, small_split.train, None, config, seed=0, checkpoint=lambda: steps.append(1)))
    assert steps == []


def test_both_layouts_train_to_the_same(small_split):
    config = TrainingConfig(epochs=1, batch_size=50, optimizer=SGD(0.01))
    losses = []
    for channels_last in (True, False):
        network = build(SEEDS["seed-001"].architecture, 0, TORCH)
        way = Way(channels_last=channels_last)
        (record,) = fit(deepcopy(network), small_split.train, small_split.val, config, seed=0, way=way)
        losses.append(record.val_loss)

    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_every_way_that_works_is_timed():
    took = measure(CPU)

    assert took.keys() == {str(way) for way in ways(CPU)}
    assert all(milliseconds > 0 for name, milliseconds in took.items() if name.startswith("fp32"))


def test_what_was_measured_is_remembered_and_believed(tmp_path):
    cache = tmp_path / "new" / "ways.json"
    fastest_way(CPU, cache=cache)
    ((here, took),) = json.loads(cache.read_text()).items()
    slow = Way("fp32", channels_last=False)

    cache.write_text(json.dumps({here: dict.fromkeys(took, 2.0) | {str(slow): 1.0}}))

    assert fastest_way(CPU, cache=cache) == slow
    assert fastest_way(CPU, "bf16", cache=cache).precision == "bf16"


def test_a_precision_that_does_not_work_here_is_refused(tmp_path):
    cache = tmp_path / "ways.json"
    fastest_way(CPU, cache=cache)
    ((here, took),) = json.loads(cache.read_text()).items()
    cache.write_text(
        json.dumps({here: took | {str(w): "no kernel" for w in ways(CPU) if w.precision == "bf16"}})
    )

    assert fastest_way(CPU, cache=cache).precision == "fp32"
    with pytest.raises(UnusableConfiguration, match="bf16 does not work on cpu"):
        fastest_way(CPU, "bf16", cache=cache)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"another machine": {}}'])
def test_a_cache_that_says_nothing_of_this_machine_is_measured_anew(tmp_path, content):
    cache = tmp_path / "ways.json"
    cache.write_text(content)

    assert fastest_way(CPU, "fp32", cache=cache).precision == "fp32"
    assert len(json.loads(cache.read_text())) == 1 + ("another" in content)


def test_where_nothing_can_be_kept_it_is_measured_all_the_same(tmp_path):
    (tmp_path / "file").touch()

    assert fastest_way(CPU, "fp32", cache=tmp_path / "file" / "ways.json").precision == "fp32"
