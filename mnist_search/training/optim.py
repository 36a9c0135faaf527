"""torch optimizers and learning-rate schedules, built from their configurations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

import torch
from torch import nn
from torch.optim import lr_scheduler

from mnist_search.training.capturable import CapturableAdam, CapturableSGD
from search_space import training_config as configs


def make_optimizer(
    parameters: Iterable[nn.Parameter], config: configs.Optimizer, *, capturable: bool = False
) -> torch.optim.Optimizer:
    """A fused optimizer of torch, or one that a CUDA graph can capture with its schedule."""
    match config:
        case configs.SGD(lr, momentum, nesterov, decay):
            if capturable:
                return CapturableSGD(parameters, lr, momentum, decay, nesterov=nesterov)
            return torch.optim.SGD(
                parameters, lr, momentum, weight_decay=decay, nesterov=nesterov, fused=True
            )
        case configs.Adam(lr, decay, decoupled):
            if capturable:
                return CapturableAdam(parameters, lr, decay, decoupled=decoupled)
            optimizer = torch.optim.AdamW if decoupled else torch.optim.Adam
            return optimizer(parameters, lr, weight_decay=decay, fused=True)


class LearningRate:
    """A learning-rate schedule: ``Plateau`` changes the rate after an epoch, the others after a step.

    ``last`` is the learning rate of the previous step.
    """

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
        self.last = self.value

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
