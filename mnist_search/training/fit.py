"""Training as an iterator of epochs; independent of the search."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import torch
from torch import Tensor, nn

from mnist_search.data.dataset import Digits
from mnist_search.records import EpochMetrics
from mnist_search.training.device import ComputeMode
from mnist_search.training.dropout import use_generator
from mnist_search.training.evaluate import Evaluation, evaluate
from mnist_search.training.loss_monitor import AsyncLossMonitor
from mnist_search.training.model import Network, copy_weights, with_padded_widths
from mnist_search.training.optim import EpochSchedule, Schedule
from mnist_search.training.step import ExponentialMovingAverage, TrainStep
from mnist_search.training.steps import Steps, make_steps
from search_space import TrainingConfig

FP32 = ComputeMode()  # without a CUDA graph
STEPS_BETWEEN_CHECKS = 25  # of the loss; a diverging training run stops within two checks
DIVERGENCE_LOSS = 10 * math.log(10)  # ten times the cross-entropy of a uniform guess among ten digits


class Diverged(ArithmeticError):
    """The training loss is NaN or above ``DIVERGENCE_LOSS``, or the validation loss is not finite."""


def fit(
    network: nn.Module,
    train: Digits,
    val: Digits | None,
    config: TrainingConfig,
    *,
    seed: int,
    compute_mode: ComputeMode = FP32,
    checkpoint: Callable[[], None] = lambda: None,
) -> Iterator[EpochMetrics]:
    """Train ``network`` in place, on the device of ``train``, and yield the metrics of every epoch.

    The network takes (N, 1, 28, 28) pixels in [0, 1]. An epoch visits the training images once in
    random order and drops an incomplete last batch. With ``ema_decay`` the averaged weights are
    evaluated; the network has the evaluated weights when an epoch is yielded, at the latest the last.
    Evaluation is always fp32. ``seed`` is that of order, augmentation and dropout, which are drawn from
    a generator of this call, so that calls in several threads are independent; torch's own dropout
    layers draw from the global generator. A schedule that cycles the momentum runs without CUDA graphs.
    ``checkpoint`` is called every few steps and may raise to stop training.

    Raises:
        Diverged: the training loss is NaN or too large, or the validation loss is not finite.
    """
    device = train.images.device
    generator = torch.Generator(device).manual_seed(seed)
    trained = _prepared(network.to(device), compute_mode)
    average = ExponentialMovingAverage(trained, config.ema_decay) if config.ema_decay is not None else None
    use_generator(trained, generator)
    train_step = TrainStep(trained, train, config, compute_mode, average)
    with closing(make_steps(train_step, generator)) as steps:
        schedule = Schedule(config, steps.per_epoch)
        n_images = steps.per_epoch * steps.batch_size
        for epoch in range(1, config.epochs + 1):
            started = time.perf_counter()
            trained.train()
            epoch_schedule = schedule.next_epoch()
            totals = _train_epoch(steps, epoch_schedule, checkpoint, f"epoch {epoch}")
            loss, accuracy = totals[0].item() / steps.per_epoch, totals[1].item() / n_images
            train_seconds = time.perf_counter() - started
            evaluation = _evaluated(average.module if average else trained, val, epoch) if val else None
            schedule.after_epoch(evaluation.accuracy if evaluation else accuracy)
            if average and epoch == config.epochs:
                trained.load_state_dict(average.module.state_dict())
            if trained is not network:
                copy_weights(trained, network)
            yield EpochMetrics(
                epoch=epoch,
                train_loss=loss,
                train_accuracy=accuracy,
                val_loss=evaluation.loss if evaluation else None,
                val_accuracy=evaluation.accuracy if evaluation else None,
                learning_rate=epoch_schedule.rates[-1],
                seconds=time.perf_counter() - started,
                samples_per_second=n_images / train_seconds,
                timestamp=int(1000 * time.time()),
            )


def _prepared(network: nn.Module, compute_mode: ComputeMode) -> nn.Module:
    """The network that is trained: this one, or a copy with padded widths."""
    if compute_mode.padded and isinstance(network, Network):
        network = with_padded_widths(network)
    return network.to(memory_format=compute_mode.memory_format)


def _evaluated(network: nn.Module, val: Digits, epoch: int) -> Evaluation:
    evaluation = evaluate(network, val)
    # A large loss can be that of running statistics of few batches; training corrects it.
    if not math.isfinite(evaluation.loss):
        raise Diverged(f"loss {evaluation.loss} at validation after epoch {epoch}")
    return evaluation


def _train_epoch(
    steps: Steps, schedule: EpochSchedule, checkpoint: Callable[[], None], position: str
) -> Tensor:
    """Train an epoch; the sums of the results of its steps, on the device."""
    monitor = AsyncLossMonitor(_check)
    n_steps, checked = len(schedule.rates), 0
    for submitted in steps.epoch(schedule):
        if submitted >= checked + STEPS_BETWEEN_CHECKS or submitted == n_steps:
            monitor.submit(steps.totals[0], submitted, f"step {submitted} of {position}")
            checkpoint()
            checked = submitted
    monitor.flush()
    return steps.totals


def _check(loss: float, position: str) -> None:
    if not loss < DIVERGENCE_LOSS:  # also true for NaN
        raise Diverged(f"loss {loss:.3g} at {position}")
