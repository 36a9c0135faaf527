"""What only a CUDA device can show; skipped where there is none."""

from __future__ import annotations

import pytest
import torch

from experiments import BASELINES
from mnist_search.data.dataset import Split
from mnist_search.training.cpu_dropout import BufferedDropout, MaskBuffer
from mnist_search.training.device import ComputeMode, describe_device, resolve_device, select_compute_mode
from mnist_search.training.ema import ExponentialMovingAverage
from mnist_search.training.fit import STEPS_BETWEEN_CHECKS, Diverged, evaluate, fit
from mnist_search.training.model import REFERENCE_LAYERS, build
from mnist_search.training.optim import LearningRate
from mnist_search.training.step import BEFORE_REPLAYS, CudaGraphStep, TrainStep
from search_space import TrainingConfig
from search_space.training_config import SGD, Adam, Augmentation, OneCycle

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

COMPUTE_MODES = [
    ComputeMode(precision, channels_last, graph)
    for precision in ("bf16", "fp32")
    for channels_last in (True, False)
    for graph in (True, False)
]


@pytest.fixture
def on_gpu(small_split):
    device = resolve_device("cuda")
    return Split(small_split.train.to(device), small_split.val.to(device))


def test_auto_is_cuda_with_a_graph():
    device = resolve_device("auto")

    assert device.type == "cuda"
    assert select_compute_mode(device).graph
    assert describe_device(device) != "cuda"


@pytest.mark.parametrize("compute_mode", COMPUTE_MODES, ids=str)
def test_a_training_on_the_gpu_learns_what_one_on_the_cpu_learns(small_split, on_gpu, compute_mode):
    config = TrainingConfig(
        epochs=6, batch_size=32, optimizer=Adam(0.01), schedule=OneCycle(),
        augmentation=Augmentation.of_strength(0.3),
    )  # fmt: skip
    network = build(BASELINES["seed-001"].architecture, seed=0)

    records = list(fit(network, on_gpu.train, on_gpu.val, config, seed=0, compute_mode=compute_mode))

    assert records[-1].val_accuracy > 0.85
    there = evaluate(network.cpu(), small_split.val)
    assert abs(there.accuracy - records[-1].val_accuracy) <= 0.004


def test_dropout_drops_at_its_rate_on_the_gpu():
    torch.manual_seed(0)

    y = BufferedDropout(MaskBuffer(0.25)).train()(torch.ones(1000, 1000, device="cuda"))

    assert abs((y == 0).double().mean().item() - 0.25) < 0.002


EXACT = TrainingConfig(epochs=1, batch_size=50, optimizer=SGD(0.05), schedule=OneCycle())
"""Nothing in it is drawn at random."""


def losses_of(on_gpu, compute_mode):
    """The losses of thirty steps of a network without dropout."""
    network = (
        build(BASELINES["seed-002"].architecture, 0, REFERENCE_LAYERS)
        .cuda()
        .to(memory_format=compute_mode.memory_format)
    )
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    eager = TrainStep(network.train(), on_gpu.train, EXACT, compute_mode)
    step = CudaGraphStep(eager) if compute_mode.graph else eager
    rate = LearningRate(eager.optimizer, EXACT.schedule, epochs=1, steps_per_epoch=30)
    losses = []
    for batch in torch.arange(1500, device="cuda").remainder(1000).split(50):
        losses.append(step(batch)[0].item())
        rate.after_step()
    return losses


def test_a_recorded_step_is_the_step_that_was_recorded(on_gpu):
    eager = losses_of(on_gpu, ComputeMode("fp32"))

    recorded = losses_of(on_gpu, ComputeMode("fp32", graph=True))

    assert eager[-1] < eager[0]
    assert recorded == pytest.approx(eager, rel=2e-2)


@pytest.mark.parametrize("compute_mode", COMPUTE_MODES, ids=str)
def test_no_step_waits_for_the_gpu(on_gpu, compute_mode):
    config = TrainingConfig(
        epochs=1, batch_size=50, optimizer=Adam(0.01), schedule=OneCycle(),
        augmentation=Augmentation.of_strength(0.5), ema_decay=0.9,
    )  # fmt: skip
    network = (
        build(BASELINES["seed-001"].architecture, 0)
        .cuda()
        .to(memory_format=compute_mode.memory_format)
        .train()
    )
    eager = TrainStep(network, on_gpu.train, config, compute_mode, ExponentialMovingAverage(network, 0.9))
    step = CudaGraphStep(eager) if compute_mode.graph else eager
    batches = torch.arange(1000, device="cuda").split(50)
    for batch in batches[:BEFORE_REPLAYS]:  # libraries load what they need, a graph is recorded
        step(batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:
            step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("graph", [True, False])
def test_a_training_that_diverges_on_the_gpu_ends_within_two_looks(on_gpu, graph):
    looks = []
    config = TrainingConfig(epochs=1, batch_size=5, optimizer=SGD(1e30))
    network = build(BASELINES["seed-001"].architecture, 0)

    with pytest.raises(Diverged):
        list(
            fit(
                network, on_gpu.train, None, config, seed=0, compute_mode=ComputeMode(graph=graph),
                checkpoint=lambda: looks.append(1),
            )
        )  # fmt: skip
    assert len(looks) * STEPS_BETWEEN_CHECKS <= 2 * STEPS_BETWEEN_CHECKS
