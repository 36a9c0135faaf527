"""Training on a CUDA device; deselected by default and skipped without one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from experiments import BASELINES
from experiments.defaults import TRAINING
from mnist_search.data.dataset import Split
from mnist_search.training.device import (
    ComputeMode,
    describe_device,
    own_stream,
    resolve_device,
    select_compute_mode,
)
from mnist_search.training.dropout import BufferedDropout, MaskBuffer
from mnist_search.training.evaluate import evaluate
from mnist_search.training.fit import Diverged, fit
from mnist_search.training.model import REFERENCE_LAYERS, build
from mnist_search.training.optim import Schedule
from mnist_search.training.step import ExponentialMovingAverage, TrainStep
from mnist_search.training.steps import STEPS_PER_GRAPH, WARM_UP, make_steps
from search_space import TrainingConfig
from search_space.training_config import SGD, Adam, Augmentation, OneCycle

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

COMPUTE_MODES = [
    ComputeMode(precision, channels_last, graph, padded)
    for precision in ("bf16", "fp32")
    for channels_last in (True, False)
    for graph in (True, False)
    for padded in (True, False)
]
N_STEPS = WARM_UP + 2 * STEPS_PER_GRAPH + 2
ONE_CYCLE = OneCycle(cycle_momentum=False)


@pytest.fixture
def gpu_split(small_split):
    device = resolve_device("cuda")
    return Split(small_split.train.to(device), small_split.val.to(device))


def test_auto_selects_cuda_with_a_graph():
    device = resolve_device("auto")

    assert device.type == "cuda"
    assert select_compute_mode(device).graph
    assert describe_device(device) != "cuda"


@pytest.mark.parametrize("schedule", [ONE_CYCLE, OneCycle()], ids=["graph", "cycled momentum"])
@pytest.mark.parametrize("compute_mode", COMPUTE_MODES, ids=str)
def test_gpu_training_reaches_the_accuracy_that_the_cpu_measures(
    small_split, gpu_split, compute_mode, schedule
):
    config = TrainingConfig(
        epochs=6,
        batch_size=32,
        optimizer=Adam(0.01),
        schedule=schedule,
        augmentation=Augmentation.of_strength(0.3),
    )
    network = build(BASELINES["seed-001"].architecture, seed=0)

    curve = list(fit(network, gpu_split.train, gpu_split.val, config, seed=0, compute_mode=compute_mode))

    assert curve[-1].val_accuracy > 0.85
    on_cpu = evaluate(network.cpu(), small_split.val)
    assert abs(on_cpu.accuracy - curve[-1].val_accuracy) <= 0.004


def test_dropout_drops_at_its_rate_on_the_gpu():
    dropout = BufferedDropout(MaskBuffer(0.25)).train()

    y = dropout(torch.ones(1000, 1000, device="cuda"))

    assert abs((y == 0).double().mean().item() - 0.25) < 0.002


def training(optimizer):
    return TrainingConfig(
        epochs=2,
        batch_size=1000 // N_STEPS,
        optimizer=optimizer,
        schedule=ONE_CYCLE,
        augmentation=Augmentation.of_strength(0.5),
    )


def steps_without_dropout(digits, compute_mode, optimizer):
    """Steps of a network without dropout."""
    config = training(optimizer)
    network = build(BASELINES["seed-002"].architecture, 0, REFERENCE_LAYERS).cuda()
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    network.to(memory_format=compute_mode.memory_format).train()
    step = TrainStep(network, digits, config, compute_mode, ExponentialMovingAverage(network, 0.9))
    return make_steps(step, torch.Generator("cuda").manual_seed(0))


@pytest.mark.parametrize(
    "optimizer", [SGD(0.05, nesterov=True), Adam(0.01, decoupled=True)], ids=["sgd", "adamw"]
)
def test_replayed_steps_equal_the_eager_steps(gpu_split, optimizer):
    """Two epochs of eager steps, and two of captured ones, with the same batches and maps."""
    losses = []
    for compute_mode in (ComputeMode("fp32"), ComputeMode("fp32", graph=True)):
        steps = steps_without_dropout(gpu_split.train, compute_mode, optimizer)
        schedule = Schedule(training(optimizer), N_STEPS)
        for _ in range(2):
            list(steps.epoch(schedule.next_epoch()))
            losses.append(steps.totals[0].item() / N_STEPS)

    assert losses[1] < losses[0]
    assert losses[2:] == pytest.approx(losses[:2], rel=2e-2)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("compute_mode", COMPUTE_MODES, ids=str)
def test_steps_do_not_wait_for_the_gpu(gpu_split, compute_mode):
    steps = steps_without_dropout(gpu_split.train, compute_mode, Adam(0.01))
    schedule = Schedule(training(Adam(0.01)), N_STEPS)
    list(steps.epoch(schedule.next_epoch()))  # libraries load kernels, and the graphs are captured
    submissions = steps.epoch(schedule.next_epoch())
    next(submissions)  # the tables are filled
    torch.cuda.set_sync_debug_mode("error")
    try:
        list(submissions)
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


def train(split, seed, lr=0.1):
    """The metrics of a training run on a stream of its own, or how it diverged."""
    config = replace(TRAINING, epochs=3, optimizer=SGD(lr, nesterov=True), schedule=ONE_CYCLE)
    network = build(BASELINES["seed-001"].architecture, seed)
    device = split.train.images.device
    try:
        with own_stream(device):
            mode = select_compute_mode(device)
            return [
                m.val_accuracy
                for m in fit(network, split.train, split.val, config, seed=seed, compute_mode=mode)
            ]
    except Diverged as error:
        return str(error)


def test_threads_train_like_one_and_a_diverging_one_changes_nothing(gpu_split):
    alone = [train(gpu_split, seed) for seed in range(4)]

    with ThreadPoolExecutor(6) as threads:
        diverging = threads.submit(train, gpu_split, 9, lr=1e9)
        together = list(threads.map(lambda seed: train(gpu_split, seed), range(4)))

    assert "loss" in diverging.result()
    assert together == alone
    assert max(curve[-1] for curve in alone) > 0.3  # 45 steps; by chance 0.1


def test_the_same_seed_gives_bit_equal_metrics_on_one_gpu(gpu_split):
    assert train(gpu_split, 0) == train(gpu_split, 0)
