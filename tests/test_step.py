"""A step asks the device for nothing, an average is torch's, the fastest way is measured once."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from fakes import Overheard, Replayed
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from experiments import SEEDS
from mnist_search.errors import UnusableConfiguration
from mnist_search.training.average import WeightAverage
from mnist_search.training.capturable import Capturable
from mnist_search.training.device import CPU
from mnist_search.training.digits import Digits
from mnist_search.training.fit import STEPS_BETWEEN_CHECKS, Diverged, fit
from mnist_search.training.model import TORCH, Network, build
from mnist_search.training.optim import LearningRate, make_optimizer
from mnist_search.training.probe import fastest_way, measure, ways
from mnist_search.training.step import LossWatch, Recorded, TrainStep, Way
from search_space import TrainingConfig
from search_space.training import SGD, Adam, Augmentation, OneCycle

ONE_BY_ONE = {"aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::nonzero"}
"""Operations for which the host waits until the device has come to them."""

CONFIG = TrainingConfig(
    epochs=2, batch_size=50, optimizer=SGD(0.05), schedule=OneCycle(),
    augmentation=Augmentation.of_strength(0.5), ema_decay=0.9,
)  # fmt: skip


OPTIMIZERS = [
    SGD(0.05), SGD(0.1, weight_decay=1e-3, nesterov=True),
    Adam(0.01, weight_decay=1e-3), Adam(0.01, weight_decay=0.05, decoupled=True),
]  # fmt: skip


class Training:
    """Steps of a training with a one-cycle schedule and an average, as they are or recorded."""

    def __init__(self, train, optimizer, way, *, recorded=False):
        self.network = build(SEEDS["seed-001"].architecture, 0, TORCH)
        self.average = WeightAverage(self.network, 0.9)
        how = replace(CONFIG, optimizer=optimizer)
        self.eager = TrainStep(self.network, train, how, way, self.average)
        self.rate = LearningRate(self.eager.optimizer, how.schedule, epochs=1, steps_per_epoch=20)
        self.step = Replayed(self.eager) if recorded else self.eager

    def losses(self, steps=20):
        """Of ``steps`` steps, as the device has them."""
        torch.manual_seed(0)
        found = []
        for batch in torch.arange(50 * steps).split(50):
            if isinstance(self.eager.optimizer, Capturable):
                self.eager.optimizer.read()
            found.append(self.step(batch % 1000)[0].clone())
            self.rate.after_step()
        return found


@pytest.mark.parametrize("way", [Way("bf16"), Way("bf16", graph=True)], ids=str)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_no_step_waits_for_the_device(small_split, optimizer, way):
    training = Training(small_split.train, optimizer, way)

    with Overheard() as operations:
        training.losses(steps=2)

    assert "aten::convolution_backward" in operations.names
    assert not operations.names & ONE_BY_ONE


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_that_is_recorded_once_and_replayed_is_the_step(small_split, optimizer):
    """Schedule, augmentation, dropout and average go on; a recording that froze one would part."""
    eager = Training(small_split.train, optimizer, Way(graph=True))
    recorded = Training(small_split.train, optimizer, Way(graph=True), recorded=True)

    losses, again = eager.losses(), recorded.losses()

    assert again == losses
    assert len({loss.item() for loss in losses}) == len(losses)
    ours, theirs = recorded.average.module.state_dict(), eager.average.module.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_step_that_a_graph_would_freeze_is_not_recorded(small_split):
    with pytest.raises(TypeError, match="would keep this optimizer's learning rate"):
        Recorded(Training(small_split.train, SGD(0.05), Way()).eager)


@pytest.mark.parametrize("how", OPTIMIZERS)
def test_a_capturable_update_is_torch_s_own(how):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2, 20, generator=generator)
    slopes = torch.randn(40, 2, 20, generator=generator)

    torch_s, ours = (path_of(start, slopes, how, capturable) for capturable in (False, True))

    torch.testing.assert_close(ours, torch_s)
    assert (torch_s - start).abs().min() > 0


def path_of(start, slopes, how, capturable):
    """Where weights come to by these gradients, under a one-cycle schedule."""
    weights = [torch.nn.Parameter(row.clone()) for row in start]
    optimizer = make_optimizer(weights, how, capturable=capturable)
    rate = LearningRate(optimizer, OneCycle(), epochs=1, steps_per_epoch=len(slopes))
    for slope in slopes:
        for weight, gradient in zip(weights, slope, strict=True):
            weight.grad = gradient.clone()
        if capturable:
            optimizer.read()
        optimizer.step()
        rate.after_step()
    return torch.stack(weights).detach()


@pytest.mark.parametrize("name", SEEDS)
def test_everything_of_a_forward_pass_lies_on_the_device(name):
    """Fake tensors refuse to mix devices, so a GPU can be stood in for where there is none."""
    recipe = SEEDS[name]
    with FakeTensorMode(), torch.device("cuda"):
        network = Network(recipe.architecture)
        train = Digits(torch.empty(200, 1, 28, 28, dtype=torch.uint8), torch.empty(200, dtype=torch.int64))
        step = TrainStep(network, train, recipe.training, Way())

        loss, right = step.forward(torch.empty(128, dtype=torch.int64))

    assert loss.device.type == right.device.type == "cuda"


@pytest.mark.parametrize("how", OPTIMIZERS)
def test_everything_of_a_capturable_update_lies_on_the_device(how):
    with FakeTensorMode(), torch.device("cuda"):
        weights = [torch.nn.Parameter(torch.empty(3, 3)), torch.nn.Parameter(torch.empty(3))]
        optimizer = make_optimizer(weights, how, capturable=True)
        for weight in weights:
            weight.grad = torch.empty_like(weight)

        optimizer.read()
        optimizer.step()

    assert {weight.device.type for weight in weights} == {"cuda"}


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
