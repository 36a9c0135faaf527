"""Evaluation of modules, exported programs and functions."""

from __future__ import annotations

import torch
from support import make_split

from experiments import BASELINES
from mnist_search.training.evaluate import confusion_matrix, evaluate
from mnist_search.training.model import build


def network():
    return build(BASELINES["seed-001"].architecture, seed=0)


def test_evaluate_counts_every_image(digits):
    val = make_split(digits, train=1000, val=2503, seed=0).val

    evaluation = evaluate(network(), val)

    assert evaluation.predictions.shape == (2503,)
    assert (
        evaluation.accuracy == (evaluation.predictions == val.labels).float().mean(dtype=torch.float64).item()
    )


def test_evaluate_takes_any_batch_size(small_split):
    evaluation = evaluate(network(), small_split.val)
    by_batches = evaluate(network(), small_split.val, batch_size=7)

    torch.testing.assert_close(by_batches.logits, evaluation.logits)


def test_evaluate_takes_an_exported_program_and_a_function(small_split):
    module = network().eval()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(module, (torch.rand(2, 1, 28, 28),), dynamic_shapes=({0: batch},))

    evaluations = [evaluate(each, small_split.val) for each in (module, program.module(), module.forward)]

    assert len({(evaluation.loss, evaluation.accuracy) for evaluation in evaluations}) == 1


def test_confusion_matrix_counts_every_image_once(small_split):
    labels = small_split.val.labels
    evaluation = evaluate(network(), small_split.val)

    matrix = confusion_matrix(evaluation.predictions, labels)

    assert matrix.sum() == len(labels)
    assert matrix.trace() == round(evaluation.accuracy * len(labels))
    assert torch.equal(matrix.sum(1), torch.bincount(labels, minlength=10))
