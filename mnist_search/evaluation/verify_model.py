"""Load a model from MLflow in a new process, count its parameters and evaluate it on the test set.

python -m mnist_search.evaluation.verify_model MODEL_URI DATA_DIR

The environment variable MLFLOW_TRACKING_URI names the server.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mlflow.pytorch import load_model

from mnist_search.data.dataset import load_test
from mnist_search.process_env import set_defaults
from mnist_search.training.evaluate import evaluate
from mnist_search.training.model import count


def main(model_uri: str, data_dir: str) -> None:
    """Print parameters and test accuracy as one JSON document."""
    set_defaults()
    network = load_model(model_uri)
    accuracy = evaluate(network, load_test(Path(data_dir))).accuracy
    json.dump({"parameters": count(network), "test_accuracy": accuracy}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
