"""Exponential moving average of weights."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class ExponentialMovingAverage:
    """An exponential moving average of a network's weights and buffers.

    Equal to ``torch.optim.swa_utils.AveragedModel`` with ``use_buffers``, which reads its step count
    from the device at every update and so cannot be captured in a CUDA graph.

    Attributes:
        module: a network with the averaged weights.
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
        pairs = zip(_float_and_int_tensors(self.module), _float_and_int_tensors(network), strict=True)
        for averaged, current in pairs:
            if averaged:
                self._average(averaged, current, 0)


def _float_and_int_tensors(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters and buffers split by dtype, float and integer: ``torch._foreach`` functions take one dtype per call."""
    tensors = [*network.parameters(), *network.buffers()]
    return [x for x in tensors if x.is_floating_point()], [x for x in tensors if not x.is_floating_point()]
