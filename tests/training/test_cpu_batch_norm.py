"""Folded batch norm against torch's batch norm."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mnist_search.training.cpu_batch_norm import FoldedBatchNorm

SHAPES = [(32, 12, 28, 28), (32, 10, 7, 7), (64, 7, 13, 13), (8, 16, 24, 24), (32, 33, 6, 6), (128, 4, 3, 3)]


class Folded(FoldedBatchNorm):
    """Folds small maps, too."""

    min_elements = 1


def batch_norms(channels, affine):
    plain, folded = nn.BatchNorm2d(channels, affine=affine), Folded(channels, affine=affine)
    if affine:
        nn.init.uniform_(plain.weight, 0.5, 2)
        nn.init.normal_(plain.bias)
    folded.load_state_dict(plain.state_dict())
    return plain, folded


def images(shape, dtype=torch.float32):
    std, mean = torch.rand(shape[1], 1, 1), torch.randn(shape[1], 1, 1)
    return (torch.randn(shape) * std + mean).to(dtype).contiguous(memory_format=torch.channels_last)


def forward_and_backward(norm, x, grad):
    x = x.clone().requires_grad_()
    y = norm(x)
    y.backward(grad)
    return {"y": y.detach(), "x.grad": x.grad} | {f"{n}.grad": p.grad for n, p in norm.named_parameters()}


def max_error(actual, expected):
    """The largest difference, relative to the largest value of its tensor."""
    assert actual.keys() == expected.keys()
    return max(
        ((actual[name] - tensor).abs().max() / tensor.abs().max()).item() for name, tensor in expected.items()
    )


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_folded_batch_norm_equals_batch_norm_in_values_gradients_and_statistics(shape, affine):
    torch.manual_seed(0)
    plain, folded = (norm.double() for norm in batch_norms(shape[1], affine))
    x, grad = images(shape, torch.double), images(shape, torch.double)

    expected, actual = forward_and_backward(plain, x, grad), forward_and_backward(folded, x, grad)

    assert actual["y"].stride() == expected["y"].stride()
    assert max_error(actual, expected) < 1e-11
    for norm in (folded, plain):  # only torch's counts batches
        norm.num_batches_tracked.fill_(1)
    assert max_error(folded.state_dict(), plain.state_dict()) < 1e-12


@pytest.mark.parametrize(("dtype", "epsilon"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-7)])
def test_rounding_error_is_about_that_of_batch_norm(dtype, epsilon):
    torch.manual_seed(0)
    plain, folded = batch_norms(12, affine=True)
    exact = Folded(12).double()
    exact.load_state_dict(plain.state_dict())
    x, grad = images((64, 12, 14, 14), dtype), images((64, 12, 14, 14), dtype)

    expected = forward_and_backward(exact, x.double(), grad.double())
    plain_error, error = (
        max_error(forward_and_backward(norm, x, grad), expected) for norm in (plain, folded)
    )

    assert error <= max(2 * plain_error, epsilon)


def test_gradient_equals_finite_differences():
    torch.manual_seed(0)
    _, folded = batch_norms(8, affine=True)
    folded = folded.double()
    x = torch.randn(4, 8, 4, 2, dtype=torch.double).to(memory_format=torch.channels_last).requires_grad_()

    assert folded.fold_factor(x) > 1
    assert torch.autograd.gradcheck(folded, (x,), atol=1e-4)


@pytest.mark.parametrize(
    "x",
    [torch.randn(64, 5, 4, 4), images((3, 5, 3, 3)), images((64, 32, 4, 4))],
    ids=["channels first", "not divisible", "full vectors"],
)
def test_maps_that_cannot_fold_use_torch(x):
    plain, folded = batch_norms(x.shape[1], affine=True)

    assert folded.fold_factor(x) == 1
    assert torch.equal(folded(x), plain(x))


def test_small_maps_are_not_folded():
    assert FoldedBatchNorm(12).fold_factor(images((128, 12, 6, 6))) == 1
    assert FoldedBatchNorm(12).fold_factor(images((128, 12, 28, 28))) == 16


def test_evaluation_mode_equals_torch():
    plain, folded = batch_norms(12, affine=True)
    x = images((8, 12, 8, 8))

    assert torch.equal(folded.eval()(x), plain.eval()(x))


def test_nan_input_does_not_affect_later_inputs():
    """A diverging trial must not fail the next trial of the same worker."""
    norm = Folded(12)

    assert norm(images((8, 12, 6, 6), torch.float32) * math.nan).isnan().all()

    assert Folded(12)(images((8, 12, 6, 6), torch.float32)).isfinite().all()
