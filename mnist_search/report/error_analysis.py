"""Misclassified images and confusion matrix of a network."""

import base64
from io import BytesIO
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from mnist_search.data.dataset import Digits
from mnist_search.training.evaluate import Evaluation, confusion_matrix

SHOWN = 30


class Mistake(NamedTuple):
    """A misclassified image, as a PNG in a data URI, with the probability of the prediction."""

    image: str
    label: int
    prediction: int
    probability: float


class Count(NamedTuple):
    """A cell of the confusion matrix; ``shade`` from 0 to 1 shows the errors only."""

    images: int
    shade: float


def mistakes(evaluation: Evaluation, digits: Digits) -> list[Mistake]:
    """The misclassified images, on the CPU, by decreasing cross-entropy, ``SHOWN`` at most."""
    wrong = (evaluation.predictions != digits.labels).nonzero().flatten()
    log_probabilities = evaluation.logits[wrong].log_softmax(1)
    order = log_probabilities[torch.arange(len(wrong)), digits.labels[wrong]].argsort()[:SHOWN]
    probabilities = log_probabilities.amax(1).exp()[order].tolist()
    return [
        Mistake(_data_uri(digits.images[i, 0]), int(digits.labels[i]), int(evaluation.predictions[i]), p)
        for i, p in zip(wrong[order].tolist(), probabilities, strict=True)
    ]


def confusion_rows(evaluation: Evaluation, digits: Digits) -> list[list[Count]]:
    """The confusion matrix, a row per true digit and a column per predicted digit."""
    counts = confusion_matrix(evaluation.predictions, digits.labels)
    highest = max(1, int(counts.masked_fill(torch.eye(10, dtype=torch.bool), 0).max()))
    return [
        [Count(n, 0.0 if true == predicted else n / highest) for predicted, n in enumerate(row)]
        for true, row in enumerate(counts.tolist())
    ]


def _data_uri(pixels: Tensor) -> str:
    """A (28, 28) uint8 map as a PNG, black on white as it was written."""
    content = BytesIO()
    Image.fromarray(255 - pixels.numpy()).save(content, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
