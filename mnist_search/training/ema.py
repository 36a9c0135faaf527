"""Exponential moving average of weights."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class ExponentialMovingAverage:
    """An exponential moving average of a network's weights and buffers, in ``module``.

    Equal to ``torch.optim.swa_utils.AveragedModel`` with ``use_buffers``, which reads its step count
    from the device at every update and so cannot be captured in a CUDA graph.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.module = deepcopy(network)
        self._average = get_ema_multi_avg_fn(decay)
        self._is_empty = True

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Add the current weights to the average; the first call copies them."""
        if self._is_empty:
            self.module.load_state_dict(network.state_dict())
            self._is_empty = False
            return
        for averaged, current in zip(_by_dtype(self.module), _by_dtype(network), strict=True):
            if averaged:
                self._average(averaged, current, 0)


def _by_dtype(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Float and integer parameters and buffers: ``torch._foreach`` functions take one dtype per call."""
    tensors = [*network.parameters(), *network.buffers()]
    return [x for x in tensors if x.is_floating_point()], [x for x in tensors if not x.is_floating_point()]
