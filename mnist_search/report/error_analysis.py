"""Misclassified images of a network as a figure."""

import base64
from io import BytesIO

import torch
from matplotlib.figure import Figure

from mnist_search.data.dataset import Digits
from mnist_search.training.evaluate import Evaluation


def plot_misclassified(evaluation: Evaluation, digits: Digits) -> Figure:
    """The misclassified images, on the CPU, by decreasing cross-entropy, 25 at most, five per row.

    Each has its label, its prediction and the probability of the prediction.
    """
    wrong = (evaluation.predictions != digits.labels).nonzero().flatten()
    log_probabilities = evaluation.logits[wrong].log_softmax(1)
    order = log_probabilities[torch.arange(len(wrong)), digits.labels[wrong]].argsort()[:25]
    probabilities = log_probabilities.amax(1).exp()[order].tolist()
    rows = max(1, -(-len(order) // 5))
    figure = Figure(figsize=(6.5, 1.5 * rows), layout="constrained")
    for axes in figure.subplots(rows, 5, squeeze=False).flat:
        axes.axis("off")
    for axes, i, probability in zip(figure.axes, wrong[order].tolist(), probabilities, strict=False):
        axes.imshow(digits.images[i, 0].numpy(), cmap="gray")
        title = f"{digits.labels[i]} as {evaluation.predictions[i]} ({probability:.0%})"
        axes.set_title(title, fontsize=8)
    return figure


def as_data_uri(figure: Figure) -> str:
    """The figure as a PNG in a data URI."""
    content = BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
