"""torch optimizers and learning-rate schedules, built from their configurations."""

from __future__ import annotations

from collections.abc import Iterable

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

    Attributes:
        last: learning rate of the previous step.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, config: configs.Schedule, epochs: int, steps_per_epoch: int
    ) -> None:
        self._optimizer = optimizer
        self._scheduler = _make_scheduler(optimizer, config, epochs, steps_per_epoch)
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


def _make_scheduler(
    optimizer: torch.optim.Optimizer, config: configs.Schedule, epochs: int, steps_per_epoch: int
) -> lr_scheduler.LRScheduler | None:
    match config:
        case configs.Constant():
            return None
        case configs.OneCycle(pct_start, div_factor, final_div_factor):
            return lr_scheduler.OneCycleLR(
                optimizer,
                max_lr=optimizer.param_groups[0]["lr"],
                total_steps=epochs * steps_per_epoch + 1,
                pct_start=pct_start,
                div_factor=div_factor,
                final_div_factor=final_div_factor,
            )
        case configs.Cosine():
            return lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * steps_per_epoch)
        case configs.Step(step_size, gamma):
            return lr_scheduler.StepLR(optimizer, step_size * steps_per_epoch, gamma)
        case configs.Plateau(factor, patience, min_lr):
            return lr_scheduler.ReduceLROnPlateau(
                optimizer, mode="max", factor=factor, patience=patience, min_lr=min_lr
            )
