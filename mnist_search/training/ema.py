"""A moving average of weights."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class ExponentialMovingAverage:
    """An exponential moving average of a network's weights and running statistics.

    What ``torch.optim.swa_utils.AveragedModel`` does with ``use_buffers``, but for its asking the
    device at every step how many steps there were.

    Attributes:
        module: a network with the averaged weights.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.module = deepcopy(network)
        self._average = get_ema_multi_avg_fn(decay)
        self._begun = False

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take the weights as they are now into the average; the first are the average."""
        if not self._begun:
            self.module.load_state_dict(network.state_dict())
            self._begun = True
            return
        for averaged, current in zip(_lists(self.module), _lists(network), strict=True):
            if averaged:
                self._average(averaged, current, 0)


def _lists(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Numbers that are averaged together: floating ones, and counts of batches."""
    all_of = [*network.parameters(), *network.buffers()]
    return [x for x in all_of if x.is_floating_point()], [x for x in all_of if not x.is_floating_point()]
