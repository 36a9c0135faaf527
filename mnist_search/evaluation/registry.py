"""Register the champion in MLflow once a new process has reloaded and re-evaluated it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from mnist_search.data.mnist import resolve_data_dir
from mnist_search.errors import MnistSearchError
from mnist_search.evaluation.champion import FinalEvaluation, final_evaluation
from mnist_search.records import StudyRecord
from mnist_search.storage.database import Store
from mnist_search.tracking.config import TrackingConfig
from mnist_search.tracking.models import CHAMPION, Registry
from mnist_search.tracking.run_info import final_payload
from mnist_search.tracking.setup import parent_run, prepare

VERIFY_TIMEOUT_SECONDS = 600


def register_champion(
    store: Store,
    record: StudyRecord,
    tracking_config: TrackingConfig,
    data_dir: Path | None,
    notify: Callable[[str], None],
) -> None:
    """Register a study's champion as ``mnist-search-BUDGET`` and set its alias ``champion``.

    Does nothing while finals are unfinished or MLflow lacks their runs.

    Args:
        store: of the study.
        record: the study.
        tracking_config: where runs are logged.
        data_dir: the MNIST files; None for the cache.
        notify: receives one message: the registered version, or that MLflow is unavailable.

    Raises:
        MnistSearchError: the logged model is not the network that the finals evaluated.
    """
    final = final_evaluation(store, record)
    run_id = final.training.run_id if final else None
    config = prepare(tracking_config, parent_run(record), notify) if final and run_id else None
    if final is None or run_id is None or config is None:
        return
    folder, registry = resolve_data_dir(data_dir).absolute(), Registry(config)
    task, weights = final.training.task, final.queue.load_weights(final.training)
    name = f"mnist-search-{record.config.budget}"
    tags = {"study": record.name}
    model_id = registry.log(name, run_id, lambda: final_payload(task, weights, folder), tags)
    results = _verify(tracking_config.tracking_uri, f"models:/{model_id}", folder)
    _check(final, results, f"models:/{model_id}")
    version = registry.register(name, model_id, run_id)
    tags |= {key: str(value) for key, value in results.items()}
    registry.set_champion_alias(name, version, tags | {"n_seeds": str(final.statistics.n_seeds)})
    notify(f"registered {name} version {version} as models:/{name}@{CHAMPION}")


def _verify(tracking_uri: str, model_uri: str, folder: Path) -> dict[str, float]:
    """Parameters and test accuracy of a logged model, from a new process."""
    command = [sys.executable, "-m", "mnist_search.evaluation.verify_model"]
    process = subprocess.run(
        [*command, tracking_uri, model_uri, str(folder)],
        capture_output=True,
        text=True,
        timeout=VERIFY_TIMEOUT_SECONDS,
        check=False,
    )
    if process.returncode:
        reason = (process.stderr.strip() or "no error message").splitlines()[-1]
        raise MnistSearchError(f"{model_uri} cannot be loaded in a new process: {reason}")
    return dict(json.loads(process.stdout.splitlines()[-1]))


def _check(final: FinalEvaluation, results: dict[str, float], model_uri: str) -> None:
    result, parameters = final.training.result, final.training.task.architecture.num_params()
    assert result is not None
    if results["parameters"] != parameters or results["test_accuracy"] != result.test_accuracy:
        raise MnistSearchError(
            f"{model_uri} is not the network that the finals evaluated: {results['parameters']} parameters "
            f"and test accuracy {results['test_accuracy']:.4f} in a new process, {parameters} and "
            f"{result.test_accuracy:.4f} in the finals"
        )
