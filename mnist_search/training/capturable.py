"""Optimizers for CUDA graph capture: scheduled hyperparameters are tensors on the device."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Capturable(torch.optim.Optimizer):
    """An optimizer whose step a CUDA graph can capture.

    torch's SGD takes momentum, and its fused Adam takes beta 1, as Python numbers. A graph would
    freeze them, and one-cycle schedules change them at every step. Here they are scalar tensors,
    like the learning rate; ``sync_hyperparameters`` updates them.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], defaults: dict[str, Any]) -> None:
        super().__init__(parameters, defaults)
        (self._group,) = self.param_groups
        self._parameters: list[Tensor] = self._group["params"]
        device = self._parameters[0].device
        self._rate, self._momentum = torch.zeros((), device=device), torch.zeros((), device=device)
        self._momentum_buffers = [torch.zeros_like(p) for p in self._parameters]

    def sync_hyperparameters(self) -> None:
        """Copy learning rate and momentum to the device without waiting for it."""
        self._rate.fill_(self._group["lr"])
        self._momentum.fill_(self._momentum_of(self._group))

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the parameters and overwrite their gradients; a closure is not called."""
        self._update([p.grad for p in self._parameters if p.grad is not None])

    @staticmethod
    @abstractmethod
    def _momentum_of(group: dict[str, Any]) -> float: ...

    @abstractmethod
    def _update(self, gradients: list[Tensor]) -> None: ...


class CapturableSGD(Capturable):
    """``torch.optim.SGD`` with momentum; formulas in its documentation."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float, decay: float, *, nesterov: bool
    ) -> None:
        super().__init__(
            parameters, {"lr": lr, "momentum": momentum, "weight_decay": decay, "nesterov": nesterov}
        )

    @staticmethod
    def _momentum_of(group: dict[str, Any]) -> float:
        return float(group["momentum"])

    def _update(self, gradients: list[Tensor]) -> None:
        if decay := self._group["weight_decay"]:
            torch._foreach_add_(gradients, self._parameters, alpha=decay)
        torch._foreach_mul_(self._momentum_buffers, self._momentum)
        torch._foreach_add_(self._momentum_buffers, gradients)
        if self._group["nesterov"]:
            torch._foreach_add_(gradients, torch._foreach_mul(self._momentum_buffers, self._momentum))
        else:
            gradients = self._momentum_buffers
        torch._foreach_sub_(self._parameters, torch._foreach_mul(gradients, self._rate))


class CapturableAdam(Capturable):
    """``torch.optim.Adam``, or ``AdamW`` if ``decoupled``; formulas in their documentation."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, decay: float, *, decoupled: bool
    ) -> None:
        super().__init__(
            parameters,
            {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": decay, "decoupled": decoupled},
        )
        self._exp_avg_sq = [torch.zeros_like(p) for p in self._parameters]
        self._steps = torch.zeros_like(self._rate)

    @staticmethod
    def _momentum_of(group: dict[str, Any]) -> float:
        return float(group["betas"][0])

    def _update(self, gradients: list[Tensor]) -> None:
        decay, beta2 = self._group["weight_decay"], self._group["betas"][1]
        self._steps += 1
        if self._group["decoupled"]:
            torch._foreach_mul_(self._parameters, 1 - self._rate * decay)
        elif decay:
            torch._foreach_add_(gradients, self._parameters, alpha=decay)
        torch._foreach_mul_(self._exp_avg_sq, beta2)
        torch._foreach_addcmul_(self._exp_avg_sq, gradients, gradients, 1 - beta2)
        torch._foreach_mul_(self._momentum_buffers, self._momentum)
        torch._foreach_add_(self._momentum_buffers, torch._foreach_mul(gradients, 1 - self._momentum))
        denominators = torch._foreach_sqrt(self._exp_avg_sq)
        torch._foreach_div_(denominators, torch.sqrt(1 - beta2**self._steps))
        torch._foreach_add_(denominators, self._group["eps"])
        updates = torch._foreach_div(self._momentum_buffers, denominators)
        torch._foreach_mul_(updates, self._rate / (1 - self._momentum**self._steps))
        torch._foreach_sub_(self._parameters, updates)
