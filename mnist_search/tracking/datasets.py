"""The MNIST files as data sets of MLflow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from mnist_search.data import mnist

DIGEST_LENGTH = 16
"""Of hexadecimal digits; MLflow stores at most 36."""


def dataset_inputs(*, has_test: bool) -> list[DatasetInput]:
    """The data sets of a run: the training images, and the test images if it is evaluated on them."""
    inputs = [_input("MNIST training images", "training", mnist.TRAIN_FILES, 60_000)]
    if has_test:
        inputs.append(_input("MNIST test images", "testing", (mnist.TEST_IMAGES, mnist.TEST_LABELS), 10_000))
    return inputs


def _input(name: str, context: str, files: Sequence[str], rows: int) -> DatasetInput:
    """A data set of verified files, whose digest is that of their SHA-256 sums."""
    sums = {file: mnist.SHA256[file] for file in files}
    dataset = Dataset(
        name=name,
        digest=hashlib.sha256("".join(sums.values()).encode()).hexdigest()[:DIGEST_LENGTH],
        source_type="code",  # MLflow's type for a source that it does not know
        source=json.dumps({"tags": sums}),
        profile=json.dumps({"num_rows": rows}),
    )
    return DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, context)])
