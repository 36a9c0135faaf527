"""Register the champion in MLflow once a new process has reloaded and re-evaluated it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from mnist_search.data.dataset import load_test
from mnist_search.data.mnist import resolve_data_dir
from mnist_search.errors import MnistSearchError, Unavailable
from mnist_search.evaluation.champion import FinalEvaluation, final_evaluation
from mnist_search.execution.process import child_environment
from mnist_search.records import StudyRecord
from mnist_search.storage.database import Store
from mnist_search.storage.finals import name_of_finals
from mnist_search.storage.tracked import TrackedStudy
from mnist_search.tracking.config import TrackingConfig
from mnist_search.tracking.models import CHAMPION, Registry
from mnist_search.tracking.run_info import final_payload
from mnist_search.tracking.sync import StudySync

VERIFY_TIMEOUT_SECONDS = 600

ONE_IMAGE = 1.01e-4
"""Difference of two test accuracies that devices may cause."""

LOCK_SECONDS = 60.0
"""How long to wait for the sync process of another command."""


def register_champion(
    store: Store,
    record: StudyRecord,
    tracking_config: TrackingConfig,
    data_dir: Path | None,
    notify: Callable[[str], None],
) -> None:
    """Register a study's champion as ``mnist-search-BUDGET`` and set its alias ``champion``.

    Does what is left of an interrupted registration; nothing while finals are unfinished.

    Args:
        store: of the study.
        record: the study.
        tracking_config: where runs are logged.
        data_dir: the MNIST files; None for the cache.
        notify: receives one message: the registered version.

    Raises:
        Unavailable: MLflow is unavailable.
        MnistSearchError: the logged model is not the network that the finals evaluated.
    """
    evaluation = final_evaluation(store, record)
    if evaluation is None:
        return
    study = TrackedStudy(store, name_of_finals(record.name))
    folder = resolve_data_dir(data_dir).absolute()
    sync = StudySync(study, tracking_config, folder, notify)
    try:
        with study.lock(LOCK_SECONDS):
            name, version = _register(store, record, study, sync, evaluation, folder)
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise Unavailable(
            f"the finals are done, but the champion is not registered: MLflow is unavailable ({reason}); "
            "run the same command again"
        ) from error
    notify(f"{name} version {version} is the champion, models:/{name}@{CHAMPION}")


def _register(
    store: Store,
    record: StudyRecord,
    study: TrackedStudy,
    sync: StudySync,
    evaluation: FinalEvaluation,
    folder: Path,
) -> tuple[str, str]:
    """The name of the registered model and its version."""
    sync.sync("FINISHED")
    run_id = sync.run_of(evaluation.final)
    registry = Registry(sync.tracking, f"mnist-search-{record.config.budget}")
    version = registry.version_of(run_id)
    if version is None or study.registered(sync.tracking_uri) != run_id:
        task, weights = evaluation.final.task, evaluation.weights(store)
        assert task is not None
        tags = {"study": record.name}
        model_id = registry.log(run_id, lambda: final_payload(task, weights, load_test(folder)), tags)
        try:
            results = _verify(sync.tracking_uri, f"models:/{model_id}", folder)
        except MnistSearchError:
            sync.tracking.client.get_run(run_id)  # an unavailable server is reported as such
            raise
        _check(evaluation, results, f"models:/{model_id}")
        tags |= {key: str(value) for key, value in results.items()}
        tags["n_seeds"] = str(evaluation.statistics.n_seeds)
        version = registry.register(model_id, run_id, tags)
        registry.set_champion(version)
        study.remember_registered(sync.tracking_uri, run_id)
    elif registry.champion() is None:
        registry.set_champion(version)
    return registry.name, version


def _verify(tracking_uri: str, model_uri: str, folder: Path) -> dict[str, float]:
    """Parameters and test accuracy of a logged model, from a new process."""
    command = [sys.executable, "-P", "-m", "mnist_search.evaluation.verify_model"]
    process = subprocess.run(
        [*command, tracking_uri, model_uri, str(folder)],
        capture_output=True,
        text=True,
        timeout=VERIFY_TIMEOUT_SECONDS,
        check=False,
        env=child_environment(),
    )
    if process.returncode:
        reason = (process.stderr.strip() or "no error message").splitlines()[-1]
        raise MnistSearchError(f"{model_uri} cannot be loaded in a new process: {reason}")
    return dict(json.loads(process.stdout.splitlines()[-1]))


def _check(evaluation: FinalEvaluation, results: dict[str, float], model_uri: str) -> None:
    final = evaluation.final
    same_accuracy = abs(results["test_accuracy"] - (final.test_accuracy or 0.0)) <= ONE_IMAGE
    if results["parameters"] != final.num_params or not same_accuracy:
        raise MnistSearchError(
            f"{model_uri} is not the network that the finals evaluated: {results['parameters']} parameters "
            f"and test accuracy {results['test_accuracy']:.4f} in a new process, {final.num_params} and "
            f"{final.test_accuracy or 0.0:.4f} in the finals"
        )
