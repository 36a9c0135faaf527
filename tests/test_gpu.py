"""What only a CUDA device can show; skipped where there is none."""

from __future__ import annotations

import pytest
import torch

from experiments import SEEDS
from mnist_search.training.device import describe_device, resolve_device, resolve_precision
from mnist_search.training.digits import Split
from mnist_search.training.dropout import MaskStrip, StripDropout
from mnist_search.training.fit import evaluate, fit
from mnist_search.training.model import build
from search_space import TrainingConfig
from search_space.training import Adam, Augmentation, OneCycle

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture
def on_gpu(small_split):
    device = resolve_device("cuda")
    return Split(small_split.train.to(device), small_split.val.to(device))


def test_auto_is_cuda_and_its_own_precision():
    device = resolve_device("auto")

    assert device.type == "cuda"
    assert resolve_precision("auto", device) in {"bf16", "fp32"}
    assert describe_device(device) != "cuda"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_on_the_gpu_learns_what_one_on_the_cpu_learns(small_split, on_gpu, precision):
    config = TrainingConfig(
        epochs=6, batch_size=32, optimizer=Adam(0.01), schedule=OneCycle(),
        augmentation=Augmentation.of_strength(0.3),
    )  # fmt: skip
    network = build(SEEDS["seed-001"].architecture, seed=0).to("cuda").to(memory_format=torch.channels_last)

    records = list(fit(network, on_gpu.train, on_gpu.val, config, seed=0, precision=precision))

    assert records[-1].val_accuracy > 0.85
    there = evaluate(network.cpu(), small_split.val)
    assert abs(there.accuracy - records[-1].val_accuracy) <= 0.004


def test_dropout_drops_at_its_rate_on_the_gpu():
    torch.manual_seed(0)

    y = StripDropout(MaskStrip(0.25)).train()(torch.ones(1000, 1000, device="cuda"))

    assert abs((y == 0).double().mean().item() - 0.25) < 0.002
