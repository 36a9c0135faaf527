"""Dropout's masks, checked statistically."""

import itertools
import math

import pytest
import torch

from mnist_search.training.cpu_dropout import BufferedDropout, ChannelDropout, MaskBuffer
from mnist_search.training.model import fast_layers, modules
from search_space.architecture import Architecture, Dropout, Flatten, Linear


def strip_dropout(rate):
    return BufferedDropout(MaskBuffer(rate)).train()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("rate", [0.05, 0.4])
def test_strip_dropout_drops_each_element_independently_at_its_rate(layout, rate, dtype):
    torch.manual_seed(0)
    x = torch.ones(128, 16, 24, 24, dtype=dtype).to(memory_format=layout)

    y = strip_dropout(rate)(x)

    assert y.dtype == dtype
    assert y.stride() == x.stride()
    dropped = (y == 0).double()
    n = dropped.numel()
    sigma = math.sqrt(rate * (1 - rate) / n)
    assert abs(y.double().mean().item() - 1) < 4 * sigma / (1 - rate)
    assert abs(y.max().item() - 1 / (1 - rate)) < 0.004
    rate = 1 - 1 / y.max().item()  # as often as its inverse in this dtype asks for
    assert abs(dropped.mean().item() - rate) < 4 * sigma
    for shifted in (dropped.roll(1, 3), dropped.roll(1, 1), dropped.roll(1, 0)):
        together = (dropped * shifted).mean().item()
        assert abs(together - rate * rate) < 5 * math.sqrt(rate * rate / n)


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
def test_dropout_as_networks_are_built_with_it_keeps_the_mean_in_bf16(per):
    torch.manual_seed(0)
    dropout, *_ = modules(Architecture((Dropout(0.05, per), Flatten(), Linear(10))), fast_layers())
    x = torch.ones(4096, 256, 1, 2, dtype=torch.bfloat16)

    mean = dropout(x).double().mean().item()

    draws = 4096 * 256 * (2 if per == "element" else 1)
    assert abs(mean - 1) < 4 * math.sqrt(0.05 / 0.95 / draws)


def test_two_masks_of_one_strip_are_uncorrelated_and_a_strip_is_not_used_for_ever():
    torch.manual_seed(0)
    strip = MaskBuffer(0.5, stretches=3)
    x = torch.ones(64, 8, 24, 24)

    masks = [strip.cut(x) for _ in range(4)]

    strips = [mask.untyped_storage().data_ptr() for mask in masks]
    assert strips[0] == strips[1] == strips[2] != strips[3]
    for one, other in itertools.combinations(masks, 2):
        together = torch.corrcoef(torch.stack((one.flatten(), other.flatten())))[0, 1]
        assert abs(together.item()) < 5 / math.sqrt(x.numel())


def test_every_unit_is_dropped_at_the_rate_over_many_steps():
    torch.manual_seed(0)
    dropout, x, steps = strip_dropout(0.2), torch.ones(16, 10), 2000

    often = sum((dropout(x) == 0).double() for _ in range(steps)) / steps

    assert (often - 0.2).abs().max().item() < 6 * math.sqrt(0.2 * 0.8 / steps)


def test_strip_dropout_is_off_in_evaluation_and_passes_gradients_where_it_keeps():
    dropout = strip_dropout(0.5)
    x = torch.ones(4, 4, requires_grad=True)

    assert dropout.eval()(x) is x
    y = dropout.train()(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
