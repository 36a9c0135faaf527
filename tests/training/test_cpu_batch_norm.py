"""Folded batch norm is batch norm."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mnist_search.training.cpu_batch_norm import FoldedBatchNorm

SHAPES = [(32, 12, 28, 28), (32, 10, 7, 7), (64, 7, 13, 13), (8, 16, 24, 24), (32, 33, 6, 6), (128, 4, 3, 3)]


class Folded(FoldedBatchNorm):
    """Folds maps of any size."""

    min_elements = 1


def pair(channels, affine):
    plain, folded = nn.BatchNorm2d(channels, affine=affine), Folded(channels, affine=affine)
    if affine:
        nn.init.uniform_(plain.weight, 0.5, 2)
        nn.init.normal_(plain.bias)
    folded.load_state_dict(plain.state_dict())
    return plain, folded


def images(shape, dtype=torch.float32):
    spread, level = torch.rand(shape[1], 1, 1), torch.randn(shape[1], 1, 1)
    return (torch.randn(shape) * spread + level).to(dtype).contiguous(memory_format=torch.channels_last)


def trained(norm, x, grad):
    x = x.clone().requires_grad_()
    y = norm(x)
    y.backward(grad)
    return {"y": y.detach(), "x.grad": x.grad} | {f"{n}.grad": p.grad for n, p in norm.named_parameters()}


def furthest(got, expected):
    """The largest difference, as a share of the largest value of its tensor."""
    assert got.keys() == expected.keys()
    return max(
        ((got[name] - there).abs().max() / there.abs().max()).item() for name, there in expected.items()
    )


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_folded_batch_norm_gives_the_values_gradients_and_statistics_of_batch_norm(shape, affine):
    torch.manual_seed(0)
    plain, folded = (norm.double() for norm in pair(shape[1], affine))
    x, grad = images(shape, torch.double), images(shape, torch.double)

    expected, got = trained(plain, x, grad), trained(folded, x, grad)

    assert got["y"].stride() == expected["y"].stride()
    assert furthest(got, expected) < 1e-11
    assert furthest(folded.state_dict(), plain.state_dict()) < 1e-12


@pytest.mark.parametrize(("dtype", "last_bit"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-7)])
def test_it_rounds_about_as_batch_norm_does(dtype, last_bit):
    torch.manual_seed(0)
    plain, folded = pair(12, affine=True)
    exact = Folded(12).double()
    exact.load_state_dict(plain.state_dict())
    x, grad = images((64, 12, 14, 14), dtype), images((64, 12, 14, 14), dtype)

    expected = trained(exact, x.double(), grad.double())
    off_plain, off = (furthest(trained(norm, x, grad), expected) for norm in (plain, folded))

    assert off <= max(2 * off_plain, last_bit)


def test_the_gradient_is_that_of_finite_differences():
    torch.manual_seed(0)
    _, folded = pair(8, affine=True)
    folded = folded.double()
    x = torch.randn(4, 8, 4, 2, dtype=torch.double).to(memory_format=torch.channels_last).requires_grad_()

    assert folded._fold_of(x) > 1
    assert torch.autograd.gradcheck(folded, (x,), atol=1e-4)


@pytest.mark.parametrize(
    "x",
    [torch.randn(64, 5, 4, 4), images((3, 5, 3, 3)), images((64, 32, 4, 4))],
    ids=["contiguous", "does not divide", "fills vectors"],
)
def test_what_does_not_fold_is_left_to_torch(x):
    plain, folded = pair(x.shape[1], affine=True)

    assert folded._fold_of(x) == 1
    assert torch.equal(folded(x), plain(x))


def test_maps_too_small_to_be_worth_it_are_left_to_torch():
    assert FoldedBatchNorm(12)._fold_of(images((128, 12, 6, 6))) == 1
    assert FoldedBatchNorm(12)._fold_of(images((128, 12, 28, 28))) == 16


def test_evaluation_is_torchs():
    plain, folded = pair(12, affine=True)
    x = images((8, 12, 8, 8))

    assert torch.equal(folded.eval()(x), plain.eval()(x))


def test_a_map_of_nans_spoils_none_that_comes_after_it():
    """A trial that diverges must not fail the next one of the same worker."""
    norm = Folded(12)

    assert norm(images((8, 12, 6, 6), torch.float32) * math.nan).isnan().all()

    assert Folded(12)(images((8, 12, 6, 6), torch.float32)).isfinite().all()
