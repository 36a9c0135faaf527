"""A fresh process that loads a model from MLflow, counts it and judges it on the test set.

python -m mnist_search.evaluation.verify_model TRACKING_URI MODEL_URI DATA_FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(tracking_uri: str, model_uri: str, folder: str) -> None:
    """Print parameters and test accuracy as one JSON document."""
    import mlflow
    from mlflow.pytorch import load_model

    from mnist_search.data.dataset import Digits
    from mnist_search.data.mnist import read_test
    from mnist_search.process_env import set_defaults
    from mnist_search.training.fit import evaluate
    from mnist_search.training.model import count

    set_defaults()
    mlflow.set_tracking_uri(tracking_uri)
    network = load_model(model_uri)
    network.eval = lambda: network  # an exported program is in evaluation mode for ever
    judged = evaluate(network, Digits.from_arrays(*read_test(Path(folder))))
    json.dump({"parameters": count(network), "test_accuracy": judged.accuracy}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
