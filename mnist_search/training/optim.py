"""Optimizers and learning-rate schedules of torch, made from their descriptions."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import lr_scheduler

from mnist_search.training.capturable import CapturableAdam, CapturableSGD
from search_space.training_config import (
    SGD,
    Adam,
    Constant,
    Cosine,
    OneCycle,
    Optimizer,
    Plateau,
    Schedule,
    Step,
)


def make_optimizer(
    parameters: Iterable[nn.Parameter], how: Optimizer, *, capturable: bool = False
) -> torch.optim.Optimizer:
    """An optimizer of torch's as one fused kernel, or one that a CUDA graph can record with its schedule."""
    match how:
        case SGD(lr, momentum, nesterov, decay):
            if capturable:
                return CapturableSGD(parameters, lr, momentum, decay, nesterov=nesterov)
            return torch.optim.SGD(
                parameters, lr, momentum, weight_decay=decay, nesterov=nesterov, fused=True
            )
        case Adam(lr, decay, decoupled):
            if capturable:
                return CapturableAdam(parameters, lr, decay, decoupled=decoupled)
            kind = torch.optim.AdamW if decoupled else torch.optim.Adam
            return kind(parameters, lr, weight_decay=decay, fused=True)


class LearningRate:
    """A schedule that is told of every step and of every epoch's accuracy.

    Attributes:
        last: the rate of the step before.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, how: Schedule, epochs: int, steps_per_epoch: int
    ) -> None:
        self._optimizer = optimizer
        self._by_step = _by_step(optimizer, how, epochs * steps_per_epoch)
        self._by_epoch = _by_epoch(optimizer, how)
        self._plateau = _plateau(optimizer, how)
        self.last = self.value

    @property
    def value(self) -> float:
        """The rate of the next step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def after_step(self) -> None:
        """Move on by one step."""
        self.last = self.value
        if self._by_step:
            self._by_step.step()

    def after_epoch(self, accuracy: float) -> None:
        """Move on by one epoch that reached ``accuracy``."""
        if self._by_epoch:
            self._by_epoch.step()
        if self._plateau:
            self._plateau.step(accuracy)


def _by_step(optimizer: torch.optim.Optimizer, how: Schedule, steps: int) -> lr_scheduler.LRScheduler | None:
    match how:
        case OneCycle(pct_start, div_factor, final_div_factor):
            peak = optimizer.param_groups[0]["lr"]
            return lr_scheduler.OneCycleLR(
                optimizer, peak, total_steps=steps + 1, pct_start=pct_start,
                div_factor=div_factor, final_div_factor=final_div_factor,
            )  # fmt: skip
        case Cosine():
            return lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        case _:
            return None


def _by_epoch(optimizer: torch.optim.Optimizer, how: Schedule) -> lr_scheduler.StepLR | None:
    match how:
        case Step(step_size, gamma):
            return lr_scheduler.StepLR(optimizer, step_size, gamma)
        case Constant() | OneCycle() | Cosine() | Plateau():
            return None


def _plateau(optimizer: torch.optim.Optimizer, how: Schedule) -> lr_scheduler.ReduceLROnPlateau | None:
    match how:
        case Plateau(factor, patience, min_lr):
            return lr_scheduler.ReduceLROnPlateau(
                optimizer, mode="max", factor=factor, patience=patience, min_lr=min_lr
            )
        case _:
            return None
