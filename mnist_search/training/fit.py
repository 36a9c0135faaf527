"""Training as an iterator of epochs; it does not know that it is searched."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnist_search.data.dataset import Digits
from mnist_search.training.device import ComputeMode
from mnist_search.training.ema import ExponentialMovingAverage
from mnist_search.training.optim import LearningRate
from mnist_search.training.step import AsyncLossMonitor, CudaGraphStep, TrainStep
from search_space import TrainingConfig

FP32 = ComputeMode()
"""fp32, as torch runs it."""

STEPS_BETWEEN_CHECKS = 25
"""Steps between looks at the loss; a training that diverges ends within two of them."""

DIVERGENCE_LOSS = 10 * math.log(10)
"""Ten times the cross-entropy of guessing among ten digits."""

EVALUATION_BATCH = 1000


class Diverged(ArithmeticError):
    """The loss is not a number any more, or far above that of guessing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """What one epoch gave. Losses are mean cross-entropies, accuracies fractions.

    Attributes:
        epoch: counted from 1.
        train_loss, train_accuracy: over the epoch's own augmented batches, dropout on.
        val_loss, val_accuracy: over every validation image after the epoch; None without any.
        learning_rate: of the epoch's last step.
        seconds: training and evaluation.
        samples_per_second: trained images per second of training alone.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    learning_rate: float
    seconds: float
    samples_per_second: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How a network does on a set: mean cross-entropy, accuracy, (N,) int64 predictions."""

    loss: float
    accuracy: float
    predictions: Tensor


def fit(
    network: nn.Module,
    train: Digits,
    val: Digits | None,
    config: TrainingConfig,
    *,
    seed: int,
    compute_mode: ComputeMode = FP32,
    checkpoint: Callable[[], None] = lambda: None,
) -> Iterator[EpochRecord]:
    """Train ``network`` in place, yielding a record after every epoch.

    Every epoch visits the training images once in a new order and leaves out what does not fill
    a last batch. With ``ema_decay`` the averaged weights are judged, and are the network's when
    the last epoch has been yielded.

    Args:
        network: takes (N, 1, 28, 28) pixels in [0, 1]; it is moved to the device of ``train``.
        train: images to learn from.
        val: images to be judged by.
        config: how to train.
        seed: decides order, augmentation and dropout; seeds torch's global generators.
        compute_mode: how to do the arithmetic of a step; evaluation is always fp32.
        checkpoint: called every few steps; what it raises ends the training.

    Raises:
        Diverged: the loss became NaN, infinite or hopeless.
    """
    torch.manual_seed(seed)
    device = train.images.device
    network.to(device).to(memory_format=compute_mode.memory_format)
    batch_size = min(config.batch_size, len(train))
    steps = len(train) // batch_size
    average = ExponentialMovingAverage(network, config.ema_decay) if config.ema_decay is not None else None
    eager = TrainStep(network, train, config, compute_mode, average)
    update = CudaGraphStep(eager) if compute_mode.graph else eager
    rate = LearningRate(eager.optimizer, config.schedule, config.epochs, steps)

    def step(batch: Tensor) -> Tensor:
        result = update(batch)
        rate.after_step()
        return result

    for epoch in range(1, config.epochs + 1):
        started = time.perf_counter()
        network.train()
        batches = torch.randperm(len(train), device=device)[: steps * batch_size].split(batch_size)
        totals = _train_epoch(step, batches, checkpoint, f"epoch {epoch}")
        trained = time.perf_counter() - started
        loss, correct = (totals / steps).tolist()
        judged = evaluate(average.module if average else network, val) if val else None
        if judged:
            _check(judged.loss, f"the validation after epoch {epoch}")
        rate.after_epoch(judged.accuracy if judged else correct / batch_size)
        if average and epoch == config.epochs:
            network.load_state_dict(average.module.state_dict())
        yield EpochRecord(
            epoch=epoch,
            train_loss=loss,
            train_accuracy=correct / batch_size,
            val_loss=judged.loss if judged else None,
            val_accuracy=judged.accuracy if judged else None,
            learning_rate=rate.last,
            seconds=time.perf_counter() - started,
            samples_per_second=steps * batch_size / trained,
        )


def _train_epoch(
    step: Callable[[Tensor], Tensor],
    batches: Sequence[Tensor],
    checkpoint: Callable[[], None],
    where: str,
) -> Tensor:
    """Run a step on every batch; the sums of what it gives, still on the device."""
    totals = torch.zeros(2, device=batches[0].device)
    watch = AsyncLossMonitor(_check)
    for number, batch in enumerate(batches, 1):
        totals += step(batch)
        if number % STEPS_BETWEEN_CHECKS == 0 or number == len(batches):
            watch.look(totals[0], number, f"step {number} of {where}")
            checkpoint()
    watch.arrive()
    return totals


@torch.no_grad()
def evaluate(network: nn.Module, digits: Digits) -> Evaluation:
    """Judge ``network`` on every image of ``digits``, in fp32 and with dropout off."""
    network.eval()
    logits = torch.cat([network(images.float() / 255) for images in digits.images.split(EVALUATION_BATCH)])
    predictions = logits.argmax(1)
    return Evaluation(
        loss=F.cross_entropy(logits, digits.labels).item(),
        accuracy=(predictions == digits.labels).sum().item() / len(digits),
        predictions=predictions,
    )


def confusion_matrix(predictions: Tensor, labels: Tensor) -> Tensor:
    """(10, 10) int64 counts, a row per true digit and a column per run_cli."""
    return torch.bincount(10 * labels + predictions, minlength=100).view(10, 10)


def _check(loss: float, where: str) -> None:
    if not loss < DIVERGENCE_LOSS:  # NaN is not below anything
        raise Diverged(f"loss {loss:.3g} at {where}")
