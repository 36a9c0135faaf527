"""Misclassified images of a network, as numbers and as a figure."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from mnist_search.data.dataset import Digits
from mnist_search.training.evaluate import confusion_matrix, evaluate

MAX_SHOWN = 25


class Misclassification(NamedTuple):
    """A misclassified image, (28, 28) uint8, and the probability of the wrong prediction."""

    image: np.ndarray
    label: int
    prediction: int
    probability: float


class ErrorAnalysis(NamedTuple):
    """Accuracy and errors of a network on a set of images.

    Attributes:
        confusion: (10, 10) counts, a row per true digit and a column per prediction.
        worst: misclassified images by decreasing cross-entropy, MAX_SHOWN at most.
    """

    accuracy: float
    confusion: np.ndarray
    worst: Sequence[Misclassification]


def analyze_errors(network: nn.Module, digits: Digits) -> ErrorAnalysis:
    """Evaluate ``network``, which returns logits, on images on the CPU."""
    evaluation = evaluate(network, digits)
    wrong = (evaluation.predictions != digits.labels).nonzero().flatten()
    images, labels, predictions = digits.images[wrong], digits.labels[wrong], evaluation.predictions[wrong]
    log_probabilities = evaluation.logits[wrong].log_softmax(1)
    worst = log_probabilities[torch.arange(len(wrong)), labels].argsort()[:MAX_SHOWN].tolist()
    probabilities = log_probabilities[torch.arange(len(wrong)), predictions].exp()
    confusion = confusion_matrix(evaluation.predictions, digits.labels).numpy()
    cases = [
        Misclassification(images[i, 0].numpy(), int(labels[i]), int(predictions[i]), float(probabilities[i]))
        for i in worst
    ]
    return ErrorAnalysis(evaluation.accuracy, confusion, cases)


def plot_misclassified(misclassified: Sequence[Misclassification]) -> Figure:
    """Misclassified images, five per row, each with its label, its prediction and the probability."""
    rows = max(1, -(-len(misclassified) // 5))
    figure = Figure(figsize=(6.5, 1.5 * rows), layout="constrained")
    for axes in figure.subplots(rows, 5, squeeze=False).flat:
        axes.axis("off")
    for axes, case in zip(figure.axes, misclassified, strict=False):
        axes.imshow(case.image, cmap="gray")
        axes.set_title(f"{case.label} as {case.prediction} ({case.probability:.0%})", fontsize=8)
    return figure


def as_data_uri(figure: Figure) -> str:
    """The figure as a PNG in a data URI."""
    content = BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
