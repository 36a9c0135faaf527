"""Training as an iterator of epochs; independent of the search."""

import math
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from mnist_search.data.dataset import Digits
from mnist_search.records import EpochMetrics
from mnist_search.training.cuda_graph import AsyncLossMonitor, CudaGraphStep
from mnist_search.training.device import ComputeMode
from mnist_search.training.evaluate import evaluate
from mnist_search.training.optim import LearningRate
from mnist_search.training.step import ExponentialMovingAverage, TrainStep
from search_space import TrainingConfig

FP32 = ComputeMode()  # without a CUDA graph
STEPS_BETWEEN_CHECKS = 25  # of the loss; a diverging training run stops within two checks
DIVERGENCE_LOSS = 10 * math.log(10)  # ten times the cross-entropy of a uniform guess among ten digits


class Diverged(ArithmeticError):
    """The loss is NaN or above ``DIVERGENCE_LOSS``."""


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
    evaluated, and the network has them when the last epoch is yielded. Evaluation is always fp32.
    ``seed`` is that of torch's global generators: order, augmentation and dropout. ``checkpoint`` is
    called every few steps and may raise to stop training.

    Raises:
        Diverged: the loss is NaN, infinite or too large.
    """
    torch.manual_seed(seed)
    device = train.images.device
    network.to(device).to(memory_format=compute_mode.memory_format)
    batch_size = min(config.batch_size, len(train))
    steps = len(train) // batch_size
    average = ExponentialMovingAverage(network, config.ema_decay) if config.ema_decay is not None else None
    train_step = TrainStep(network, train, config, compute_mode, average)
    update = CudaGraphStep(train_step) if compute_mode.graph else train_step
    rate = LearningRate(train_step.optimizer, config.schedule, config.epochs, steps)

    for epoch in range(1, config.epochs + 1):
        started = time.perf_counter()
        network.train()
        batches = torch.randperm(len(train), device=device)[: steps * batch_size].split(batch_size)
        totals = _train_epoch(update, rate, batches, checkpoint, f"epoch {epoch}")
        train_seconds = time.perf_counter() - started
        loss, correct = (totals / steps).tolist()
        evaluation = evaluate(average.module if average else network, val) if val else None
        if evaluation:
            _check(evaluation.loss, f"validation after epoch {epoch}")
        rate.after_epoch(evaluation.accuracy if evaluation else correct / batch_size)
        if average and epoch == config.epochs:
            network.load_state_dict(average.module.state_dict())
        yield EpochMetrics(
            epoch=epoch,
            train_loss=loss,
            train_accuracy=correct / batch_size,
            val_loss=evaluation.loss if evaluation else None,
            val_accuracy=evaluation.accuracy if evaluation else None,
            learning_rate=rate.last,
            seconds=time.perf_counter() - started,
            samples_per_second=steps * batch_size / train_seconds,
            timestamp=int(1000 * time.time()),
        )


def _train_epoch(
    step: Callable[[Tensor], Tensor],
    rate: LearningRate,
    batches: Sequence[Tensor],
    checkpoint: Callable[[], None],
    position: str,
) -> Tensor:
    """Train on every batch; the sums of the results of ``step``, on the device."""
    totals = torch.zeros(2, device=batches[0].device)
    monitor = AsyncLossMonitor(_check)
    for number, batch in enumerate(batches, 1):
        totals += step(batch)
        rate.after_step()
        if number % STEPS_BETWEEN_CHECKS == 0 or number == len(batches):
            monitor.submit(totals[0], number, f"step {number} of {position}")
            checkpoint()
    monitor.flush()
    return totals


def _check(loss: float, position: str) -> None:
    if not loss < DIVERGENCE_LOSS:  # also true for NaN
        raise Diverged(f"loss {loss:.3g} at {position}")
