"""Load a model from MLflow in a new process, count its parameters and evaluate it on the test set.

python -m mnist_search.evaluation.verify_model TRACKING_URI MODEL_URI DATA_DIR
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import mlflow
from mlflow.pytorch import load_model

from mnist_search.data.dataset import load_test
from mnist_search.process_env import set_defaults
from mnist_search.training.evaluate import evaluate
from mnist_search.training.model import count


def main(tracking_uri: str, model_uri: str, data_dir: str) -> None:
    """Print parameters and test accuracy as one JSON document."""
    set_defaults()
    mlflow.set_tracking_uri(tracking_uri)
    network = load_model(model_uri)
    accuracy = evaluate(network, load_test(Path(data_dir))).accuracy
    json.dump({"parameters": count(network), "test_accuracy": accuracy}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
