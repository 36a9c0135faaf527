"""Optimizers, those for a CUDA graph included, and learning-rate schedules, built from configurations."""

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from search_space import training_config as configs


def make_optimizer(
    parameters: Iterable[nn.Parameter], config: configs.Optimizer, *, capturable: bool = False
) -> torch.optim.Optimizer:
    """A fused optimizer of torch, or one that a CUDA graph can capture with its schedule."""
    values = asdict(config)
    if capturable:
        make = CapturableSGD if isinstance(config, configs.SGD) else CapturableAdam
        return make(parameters, values)
    if isinstance(config, configs.SGD):
        return torch.optim.SGD(parameters, **values, fused=True)
    adam = torch.optim.AdamW if values.pop("decoupled") else torch.optim.Adam
    return adam(parameters, **values, fused=True)


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
        self._momentum.fill_(self._group["betas"][0] if "betas" in self._group else self._group["momentum"])

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the parameters and overwrite their gradients; a closure is not called."""
        self._update([p.grad for p in self._parameters if p.grad is not None])

    @abstractmethod
    def _update(self, gradients: list[Tensor]) -> None: ...


class CapturableSGD(Capturable):
    """``torch.optim.SGD`` with momentum; formulas in its documentation."""

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

    def __init__(self, parameters: Iterable[nn.Parameter], defaults: dict[str, Any]) -> None:
        super().__init__(parameters, {"betas": (0.9, 0.999), "eps": 1e-8} | defaults)
        self._exp_avg_sq = [torch.zeros_like(p) for p in self._parameters]
        self._steps = torch.zeros_like(self._rate)

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


class LearningRate:
    """A learning-rate schedule: ``Plateau`` changes the rate after an epoch, the others after a step."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, config: configs.Schedule, epochs: int, steps_per_epoch: int
    ) -> None:
        self._optimizer = optimizer
        self._scheduler: lr_scheduler.LRScheduler | None = None
        steps = epochs * steps_per_epoch
        match config:
            case configs.OneCycle():
                self._scheduler = lr_scheduler.OneCycleLR(optimizer, self.value, steps + 1, **asdict(config))
            case configs.Cosine():
                self._scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
            case configs.Step(step_size, gamma):
                self._scheduler = lr_scheduler.StepLR(optimizer, step_size * steps_per_epoch, gamma)
            case configs.Plateau():
                self._scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", **asdict(config))
        self.last = self.value  # learning rate of the previous step

    @property
    def value(self) -> float:
        """Learning rate of the next step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def after_step(self) -> None:
        """Advance by one step."""
        self.last = self.value
        if self._scheduler and not isinstance(self._scheduler, lr_scheduler.ReduceLROnPlateau):
            self._scheduler.step()

    def after_epoch(self, accuracy: float) -> None:
        """Advance by one epoch with this accuracy."""
        if isinstance(self._scheduler, lr_scheduler.ReduceLROnPlateau):
            self._scheduler.step(accuracy)
