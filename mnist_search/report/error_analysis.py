"""What a network gets wrong, as numbers and as pictures."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from mnist_search.data.dataset import Digits
from mnist_search.training.fit import confusion_matrix

MAX_SHOWN = 25


@dataclass(frozen=True, slots=True)
class Misclassification:
    """One image that was misread.

    Attributes:
        image: (28, 28) uint8.
        probability: of the wrong run_cli.
    """

    image: np.ndarray
    label: int
    run_cli: int
    probability: float


@dataclass(frozen=True, slots=True)
class ErrorAnalysis:
    """How a network reads a set.

    Attributes:
        confusion: (10, 10) counts, a row per true digit.
        worst: mistakes by falling cross-entropy, MAX_SHOWN at most.
    """

    accuracy: float
    confusion: np.ndarray
    worst: Sequence[Misclassification]


@torch.no_grad()
def judge(network: nn.Module, digits: Digits) -> ErrorAnalysis:
    """Read every image; ``network`` gives logits, on the CPU and in evaluation mode."""
    batches = digits.images.split(1000)
    logs = torch.cat([network(images.float() / 255).log_softmax(1) for images in batches])
    answers = logs.argmax(1)
    wrong = (answers != digits.labels).nonzero().flatten()
    surprise = -logs[wrong, digits.labels[wrong]]
    worst = wrong[surprise.argsort(descending=True)][:MAX_SHOWN].tolist()
    return ErrorAnalysis(
        accuracy=1 - len(wrong) / len(digits),
        confusion=confusion_matrix(answers, digits.labels).numpy(),
        worst=[
            Misclassification(
                image=digits.images[i, 0].numpy(),
                label=int(digits.labels[i]),
                run_cli=int(answers[i]),
                probability=float(logs[i, answers[i]].exp()),
            )
            for i in worst
        ],
    )


def plot_misclassified(mistakes: Sequence[Misclassification]) -> Figure:
    """Mistakes in rows of five: what it is, and what it was read as, how surely."""
    rows = max(1, -(-len(mistakes) // 5))
    figure = Figure(figsize=(6.5, 1.5 * rows), layout="constrained")
    for axes in figure.subplots(rows, 5, squeeze=False).flat:
        axes.axis("off")
    for axes, mistake in zip(figure.axes, mistakes, strict=False):
        axes.imshow(mistake.image, cmap="gray")
        axes.set_title(f"{mistake.label}, read {mistake.run_cli} ({mistake.probability:.0%})", fontsize=8)
    return figure


def as_data_uri(figure: Figure) -> str:
    """A figure as a PNG inside a page."""
    content = BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
