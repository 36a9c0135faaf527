"""A step asks the device for nothing, an average is torch's, the fastest way is measured once."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from fakes import GraphReplayFake, OperationRecorder
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from experiments import BASELINES
from mnist_search.data.dataset import Digits
from mnist_search.training.capturable import Capturable
from mnist_search.training.device import (
    CPU,
    JOBS_PER_ACCELERATOR,
    NATIVE_BF16,
    ComputeMode,
    default_jobs,
    select_compute_mode,
    usable_cores,
)
from mnist_search.training.ema import ExponentialMovingAverage
from mnist_search.training.fit import STEPS_BETWEEN_CHECKS, Diverged, fit
from mnist_search.training.model import REFERENCE_LAYERS, Network, build
from mnist_search.training.optim import LearningRate, make_optimizer
from mnist_search.training.step import AsyncLossMonitor, CudaGraphStep, TrainStep
from search_space import TrainingConfig
from search_space.training_config import SGD, Adam, Augmentation, OneCycle

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


class FinalTraining:
    """Steps of a training with a one-cycle schedule and an average, as they are or recorded."""

    def __init__(self, train, optimizer, compute_mode, *, recorded=False):
        self.network = build(BASELINES["seed-001"].architecture, 0, REFERENCE_LAYERS)
        self.average = ExponentialMovingAverage(self.network, 0.9)
        how = replace(CONFIG, optimizer=optimizer)
        self.eager = TrainStep(self.network, train, how, compute_mode, self.average)
        self.rate = LearningRate(self.eager.optimizer, how.schedule, epochs=1, steps_per_epoch=20)
        self.step = GraphReplayFake(self.eager) if recorded else self.eager

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


@pytest.mark.parametrize("compute_mode", [ComputeMode("bf16"), ComputeMode("bf16", graph=True)], ids=str)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_no_step_waits_for_the_device(small_split, optimizer, compute_mode):
    training = FinalTraining(small_split.train, optimizer, compute_mode)

    with OperationRecorder() as operations:
        training.losses(steps=2)

    assert "aten::convolution_backward" in operations.names
    assert not operations.names & ONE_BY_ONE


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_that_is_recorded_once_and_replayed_is_the_step(small_split, optimizer):
    """Schedule, augmentation, dropout and average go on; a recording that froze one would part."""
    eager = FinalTraining(small_split.train, optimizer, ComputeMode(graph=True))
    recorded = FinalTraining(small_split.train, optimizer, ComputeMode(graph=True), recorded=True)

    losses, again = eager.losses(), recorded.losses()

    assert again == losses
    assert len({loss.item() for loss in losses}) == len(losses)
    ours, theirs = recorded.average.module.state_dict(), eager.average.module.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_step_that_a_graph_would_freeze_is_not_recorded(small_split):
    with pytest.raises(TypeError, match="would keep this optimizer's learning rate"):
        CudaGraphStep(FinalTraining(small_split.train, SGD(0.05), ComputeMode()).eager)


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


@pytest.mark.parametrize("name", BASELINES)
def test_everything_of_a_forward_pass_lies_on_the_device(name):
    """Fake tensors refuse to mix devices, so a GPU can be stood in for where there is none."""
    recipe = BASELINES[name]
    with FakeTensorMode(), torch.device("cuda"):
        network = Network(recipe.architecture)
        train = Digits(torch.empty(200, 1, 28, 28, dtype=torch.uint8), torch.empty(200, dtype=torch.int64))
        step = TrainStep(network, train, recipe.training, ComputeMode())

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
    network = build(BASELINES["seed-001"].architecture, 0)
    ours = ExponentialMovingAverage(network, 0.9)
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
    average = ExponentialMovingAverage(network, 0.75)
    weights = []
    for level in (4.0, 8.0):
        torch.nn.init.constant_(network.weight, level)
        average.update(network)
        weights.append(average.module.weight.tolist())

    assert weights == [[[4.0, 4.0]], [[5.0, 5.0]]]


def test_a_watch_gives_the_mean_since_the_last_look():
    seen = []
    watch = AsyncLossMonitor(lambda loss, where: seen.append((loss, where)))

    watch.look(torch.tensor(20.0), 10, "step 10")
    watch.look(torch.tensor(50.0), 15, "step 15")
    watch.arrive()

    assert seen == [(2.0, "step 10"), (6.0, "step 15")]


def test_a_loss_that_is_no_number_ends_the_epoch_at_the_next_look(small_split):
    network = build(BASELINES["seed-001"].architecture, 0)
    config = TrainingConfig(epochs=1, batch_size=10, optimizer=SGD(1e30))
    steps = []

    with pytest.raises(Diverged, match=f"step {STEPS_BETWEEN_CHECKS} of epoch 1"):
        list(fit(network, small_split.train, None, config, seed=0, checkpoint=lambda: steps.append(1)))
    assert steps == []


def test_both_layouts_train_to_the_same(small_split):
    config = TrainingConfig(epochs=1, batch_size=50, optimizer=SGD(0.01))
    losses = []
    for channels_last in (True, False):
        network = build(BASELINES["seed-001"].architecture, 0, REFERENCE_LAYERS)
        compute_mode = ComputeMode(channels_last=channels_last)
        (record,) = fit(
            deepcopy(network), small_split.train, small_split.val, config, seed=0, compute_mode=compute_mode
        )
        losses.append(record.val_loss)

    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_the_compute_mode_of_a_device_follows_from_its_hardware():
    mode = select_compute_mode(CPU)

    native = any(torch.cpu.get_capabilities().get(name) is True for name in NATIVE_BF16)
    assert mode == ComputeMode("bf16" if native else "fp32", channels_last=True, graph=False)
    assert select_compute_mode(torch.device("meta")) == ComputeMode("fp32")


def test_a_given_precision_overrides_the_rule():
    assert [select_compute_mode(CPU, name).precision for name in ("bf16", "fp32")] == ["bf16", "fp32"]


def test_auto_jobs_are_one_per_core_on_a_cpu_and_constant_on_an_accelerator():
    assert default_jobs(CPU) == usable_cores()
    assert default_jobs(torch.device("cuda")) == JOBS_PER_ACCELERATOR
