"""Optimizers and learning-rate schedules of torch, built from configurations."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from search_space import training_config as configs


def make_optimizer(
    parameters: Iterable[nn.Parameter], config: configs.Optimizer, lr: Tensor | None = None
) -> torch.optim.Optimizer:
    """A fused optimizer; with ``lr``, it reads the learning rate from this tensor, which a CUDA graph can change."""
    values: dict[str, Any] = asdict(config) | {"fused": True}
    optimizer: torch.optim.Optimizer
    if isinstance(config, configs.SGD):
        optimizer = torch.optim.SGD(parameters, **values)
    else:
        adam = torch.optim.AdamW if values.pop("decoupled") else torch.optim.Adam
        optimizer = adam(parameters, **values, capturable=lr is not None and lr.is_cuda)
    if lr is not None:
        optimizer.param_groups[0]["lr"] = lr
    return optimizer


class EpochSchedule(NamedTuple):
    """Learning rates of the steps of an epoch, and momenta (Adam: beta 1) if the schedule cycles them."""

    rates: list[float]
    momenta: list[float] | None


class Schedule:
    """A learning-rate schedule, computed on the host by a scheduler of torch with a placeholder parameter.

    ``Plateau`` changes the rate after an epoch, the others after a step. It starts again for every part
    of the training run.
    """

    def __init__(self, config: configs.TrainingConfig, steps_per_epoch: int) -> None:
        self._config, self._steps = config, steps_per_epoch
        self._parts = list(config.parts)
        self._epochs_left = 0
        self._cycles_momentum = cycles_momentum(config.schedule)

    def _start(self, epochs: int) -> None:
        """Start a part of so many epochs."""
        placeholder = make_optimizer([nn.Parameter(torch.zeros(1))], self._config.optimizer)
        (self._group,) = placeholder.param_groups
        self._scheduler = self._make_scheduler(placeholder, epochs)
        self._epochs_left = epochs
        placeholder.step()  # a scheduler that is stepped first warns

    def _make_scheduler(
        self, optimizer: torch.optim.Optimizer, epochs: int
    ) -> lr_scheduler.LRScheduler | None:
        steps = epochs * self._steps
        match self._config.schedule:
            case configs.OneCycle() as config:
                return lr_scheduler.OneCycleLR(optimizer, self._group["lr"], steps + 1, **asdict(config))
            case configs.Cosine():
                return lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
            case configs.Step(step_size, gamma):
                shorter = max(1, round(step_size * epochs / self._config.epochs))
                return lr_scheduler.StepLR(optimizer, shorter * self._steps, gamma)
            case configs.Plateau() as config:
                return lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", **asdict(config))
        return None

    def next_epoch(self) -> EpochSchedule:
        """The values of the next epoch."""
        if not self._epochs_left:
            self._start(self._parts.pop(0))
        self._epochs_left -= 1
        rates, momenta = [], []
        for _ in range(self._steps):
            rates.append(float(self._group["lr"]))
            momenta.append(self._group["betas"][0] if "betas" in self._group else self._group["momentum"])
            if self._scheduler and not isinstance(self._scheduler, lr_scheduler.ReduceLROnPlateau):
                self._scheduler.step()
        return EpochSchedule(rates, momenta if self._cycles_momentum else None)

    def after_epoch(self, accuracy: float) -> None:
        """Adapt the rate to the accuracy after an epoch."""
        if isinstance(self._scheduler, lr_scheduler.ReduceLROnPlateau):
            self._scheduler.step(accuracy)


def cycles_momentum(config: configs.Schedule) -> bool:
    """Whether a schedule changes the momentum, which optimizers take as a number that a CUDA graph would freeze."""
    return isinstance(config, configs.OneCycle) and config.cycle_momentum
