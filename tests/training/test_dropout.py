"""Statistical tests of dropout masks."""

import itertools
import math

import pytest
import torch

from mnist_search.training.dropout import BufferedDropout, ChannelDropout, MaskBuffer
from mnist_search.training.model import fast_layers, modules
from search_space.architecture import Architecture, Dropout, Flatten, Linear


def buffered_dropout(rate):
    return BufferedDropout(MaskBuffer(rate)).train()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("rate", [0.05, 0.4])
def test_buffered_dropout_drops_elements_independently_at_its_rate(memory_format, rate, dtype):
    torch.manual_seed(0)
    x = torch.ones(128, 16, 24, 24, dtype=dtype).to(memory_format=memory_format)

    y = buffered_dropout(rate)(x)

    assert y.dtype == dtype
    assert y.stride() == x.stride()
    dropped = (y == 0).double()
    n = dropped.numel()
    sigma = math.sqrt(rate * (1 - rate) / n)
    assert abs(y.double().mean().item() - 1) < 4 * sigma / (1 - rate)
    assert abs(y.max().item() - 1 / (1 - rate)) < 0.004
    rate = 1 - 1 / y.max().item()  # adjusted to the rounded scale
    assert abs(dropped.mean().item() - rate) < 4 * sigma
    for shifted in (dropped.roll(1, 3), dropped.roll(1, 1), dropped.roll(1, 0)):
        joint = (dropped * shifted).mean().item()
        assert abs(joint - rate * rate) < 5 * math.sqrt(rate * rate / n)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_channel_dropout_drops_whole_channels_and_keeps_the_mean(dtype):
    torch.manual_seed(0)
    dropout, x, rate = ChannelDropout(0.05), torch.ones(4096, 256, 2, 2, dtype=dtype), 0.05

    y = dropout(x)

    assert y.dtype == dtype
    first = y[:, :, :1, :1]
    assert torch.equal(y, first.expand_as(y))
    assert abs(first.double().mean().item() - 1) < 4 * math.sqrt(rate / (1 - rate) / first.numel())
    assert dropout.eval()(x) is x


@pytest.mark.parametrize("per", ["element", "channel"])
def test_dropout_of_fast_layers_keeps_the_mean_in_bf16(per):
    torch.manual_seed(0)
    dropout, *_ = modules(Architecture((Dropout(0.05, per), Flatten(), Linear(10))), fast_layers())
    x = torch.ones(4096, 256, 1, 2, dtype=torch.bfloat16)

    mean = dropout(x).double().mean().item()

    draws = 4096 * 256 * (2 if per == "element" else 1)
    assert abs(mean - 1) < 4 * math.sqrt(0.05 / 0.95 / draws)


def test_masks_of_a_buffer_are_uncorrelated_and_the_buffer_is_resampled():
    torch.manual_seed(0)
    buffer = MaskBuffer(0.5, n_masks=3)
    x = torch.ones(64, 8, 24, 24)

    masks = [buffer.slice(x) for _ in range(4)]

    storages = [mask.untyped_storage().data_ptr() for mask in masks]
    assert storages[0] == storages[1] == storages[2] != storages[3]
    for one, other in itertools.combinations(masks, 2):
        correlation = torch.corrcoef(torch.stack((one.flatten(), other.flatten())))[0, 1]
        assert abs(correlation.item()) < 5 / math.sqrt(x.numel())


def test_every_unit_is_dropped_at_the_rate_over_many_steps():
    torch.manual_seed(0)
    dropout, x, steps = buffered_dropout(0.2), torch.ones(16, 10), 2000

    frequency = sum((dropout(x) == 0).double() for _ in range(steps)) / steps

    assert (frequency - 0.2).abs().max().item() < 6 * math.sqrt(0.2 * 0.8 / steps)


def test_buffered_dropout_is_the_identity_in_evaluation_mode_and_masks_gradients():
    dropout = buffered_dropout(0.5)
    x = torch.ones(4, 4, requires_grad=True)

    assert dropout.eval()(x) is x
    y = dropout.train()(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
