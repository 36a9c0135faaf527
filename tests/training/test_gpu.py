"""Training on a CUDA device; deselected by default and skipped without one.

These tests passed on an H100 at 08eb057 (21, experiments/LOG.md); in their present form they have not
run on a GPU.
"""

from __future__ import annotations

import pytest
import torch

from experiments import BASELINES
from mnist_search.data.dataset import Split
from mnist_search.training.cpu_dropout import BufferedDropout, MaskBuffer
from mnist_search.training.cuda_graph import BEFORE_REPLAYS, CudaGraphStep
from mnist_search.training.device import ComputeMode, describe_device, resolve_device, select_compute_mode
from mnist_search.training.evaluate import evaluate
from mnist_search.training.fit import Diverged, fit
from mnist_search.training.model import REFERENCE_LAYERS, build
from mnist_search.training.optim import LearningRate
from mnist_search.training.step import ExponentialMovingAverage, TrainStep
from search_space import TrainingConfig
from search_space.training_config import SGD, Adam, Augmentation, OneCycle

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

COMPUTE_MODES = [
    ComputeMode(precision, channels_last, graph)
    for precision in ("bf16", "fp32")
    for channels_last in (True, False)
    for graph in (True, False)
]


@pytest.fixture
def gpu_split(small_split):
    device = resolve_device("cuda")
    return Split(small_split.train.to(device), small_split.val.to(device))


def test_auto_selects_cuda_with_a_graph():
    device = resolve_device("auto")

    assert device.type == "cuda"
    assert select_compute_mode(device).graph
    assert describe_device(device) != "cuda"


@pytest.mark.parametrize("compute_mode", COMPUTE_MODES, ids=str)
def test_gpu_training_reaches_the_accuracy_that_the_cpu_measures(small_split, gpu_split, compute_mode):
    config = TrainingConfig(
        epochs=6,
        batch_size=32,
        optimizer=Adam(0.01),
        schedule=OneCycle(),
        augmentation=Augmentation.of_strength(0.3),
    )
    network = build(BASELINES["seed-001"].architecture, seed=0)

    curve = list(fit(network, gpu_split.train, gpu_split.val, config, seed=0, compute_mode=compute_mode))

    assert curve[-1].val_accuracy > 0.85
    on_cpu = evaluate(network.cpu(), small_split.val)
    assert abs(on_cpu.accuracy - curve[-1].val_accuracy) <= 0.004


def test_dropout_drops_at_its_rate_on_the_gpu():
    torch.manual_seed(0)

    y = BufferedDropout(MaskBuffer(0.25)).train()(torch.ones(1000, 1000, device="cuda"))

    assert abs((y == 0).double().mean().item() - 0.25) < 0.002


def losses(digits, compute_mode):
    """The losses of thirty steps without random numbers."""
    config = TrainingConfig(epochs=1, batch_size=50, optimizer=SGD(0.05), schedule=OneCycle())
    network = build(BASELINES["seed-002"].architecture, 0, REFERENCE_LAYERS).cuda()
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    network.to(memory_format=compute_mode.memory_format).train()
    eager = TrainStep(network, digits, config, compute_mode)
    step = CudaGraphStep(eager) if compute_mode.graph else eager
    rate = LearningRate(eager.optimizer, config.schedule, epochs=1, steps_per_epoch=30)
    values = []
    for batch in torch.arange(1500, device="cuda").remainder(1000).split(50):
        values.append(step(batch)[0].item())
        rate.after_step()
    return values


def test_replayed_step_equals_the_eager_step(gpu_split):
    eager = losses(gpu_split.train, ComputeMode("fp32"))

    replayed = losses(gpu_split.train, ComputeMode("fp32", graph=True))

    assert eager[-1] < eager[0]
    assert replayed == pytest.approx(eager, rel=2e-2)


@pytest.mark.parametrize("compute_mode", COMPUTE_MODES, ids=str)
def test_step_does_not_wait_for_the_gpu(gpu_split, compute_mode):
    config = TrainingConfig(
        epochs=1,
        batch_size=50,
        optimizer=Adam(0.01),
        schedule=OneCycle(),
        augmentation=Augmentation.of_strength(0.5),
    )
    network = build(BASELINES["seed-001"].architecture, 0).cuda()
    network.to(memory_format=compute_mode.memory_format).train()
    eager = TrainStep(network, gpu_split.train, config, compute_mode, ExponentialMovingAverage(network, 0.9))
    step = CudaGraphStep(eager) if compute_mode.graph else eager
    batches = torch.arange(1000, device="cuda").split(50)
    for batch in batches[:BEFORE_REPLAYS]:  # libraries load kernels, and the graph is captured
        step(batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:
            step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("graph", [True, False])
def test_fit_stops_a_diverging_training_within_two_checks_on_the_gpu(gpu_split, graph):
    checks = []
    config = TrainingConfig(epochs=1, batch_size=5, optimizer=SGD(1e30))
    network = build(BASELINES["seed-001"].architecture, 0)
    epochs = fit(
        network,
        gpu_split.train,
        None,
        config,
        seed=0,
        compute_mode=ComputeMode(graph=graph),
        checkpoint=lambda: checks.append(1),
    )

    with pytest.raises(Diverged):
        list(epochs)
    assert len(checks) <= 2
