"""Register the champion in MLflow once a new process has reloaded and re-evaluated it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from mnist_search.data.dataset import load_test
from mnist_search.data.mnist import resolve_data_dir
from mnist_search.errors import MnistSearchError, Unavailable, first_line
from mnist_search.evaluation.champion import FinalEvaluation, final_evaluation
from mnist_search.execution.process import child_environment
from mnist_search.records import StudyRecord, percent
from mnist_search.storage.database import Store
from mnist_search.storage.finals import name_of_finals
from mnist_search.storage.tracked import TrackedStudy
from mnist_search.tracking.config import Notify, TrackingConfig
from mnist_search.tracking.models import CHAMPION, adopt_model, list_models, log_pt2, register, version_of
from mnist_search.tracking.runs import set_tags
from mnist_search.tracking.sync import StudySync
from mnist_search.training.model import load_network

VERIFY_TIMEOUT_SECONDS = 600

ONE_IMAGE = 1.01e-4
"""Difference of two test accuracies that devices may cause."""

LOCK_SECONDS = 60.0
"""How long to wait for the sync process of another command."""


def register_champion(
    store: Store, record: StudyRecord, tracking_config: TrackingConfig, data_dir: Path | None, notify: Notify
) -> None:
    """Register a study's champion as ``mnist-search-BUDGET`` and set its alias ``champion``.

    Does what is left of an interrupted registration; nothing while finals are unfinished. ``notify``
    receives the registered version.

    Raises:
        Unavailable: MLflow is unavailable.
        MnistSearchError: the logged model is not the network that the finals evaluated.
    """
    evaluation = final_evaluation(store, record)
    if evaluation is None:
        return
    study = TrackedStudy(store, name_of_finals(record.name))
    uri, folder = tracking_config.tracking_uri, resolve_data_dir(data_dir).absolute()
    sync = StudySync(study, tracking_config, folder, notify)
    name, task = f"mnist-search-{record.config.budget}", evaluation.task
    try:
        with study.lock(LOCK_SECONDS):
            sync.sync("FINISHED")
            run_id, client = sync.run_of(evaluation.final), sync.tracking.client
            version = version_of(client, name, run_id)
            if version is None or study.registered(uri) != run_id:
                logged = [each for each in list_models(sync.tracking) if each.source_run_id == run_id]
                model_id = adopt_model(sync.tracking, logged) or log_pt2(
                    sync.tracking,
                    run_id,
                    load_network(task.architecture, evaluation.weights(store)),
                    load_test(folder),
                    name=name,
                    step=task.training.epochs,
                    tags={"study": record.name},
                    evaluated_on="test images",
                )
                try:
                    results = _verify(evaluation, uri, f"models:/{model_id}", folder)
                except MnistSearchError:
                    client.get_run(run_id)  # an unavailable server is reported as such
                    raise
                statistics = evaluation.statistics
                means = {"n_seeds": statistics.n_seeds, "test_accuracy_mean": statistics.test_accuracy_mean}
                tags = {"study": record.name, "seed": task.seed} | means | results
                version = register(client, name, model_id, run_id, tags)
                mean = percent(statistics.test_accuracy_mean)
                champion = f"{task.name}: {mean} of the test images, mean of {statistics.n_seeds} seeds"
                set_tags(sync.tracking, sync.tracking.parent_run_id, {"champion": champion})
                study.remember_registered(uri, run_id)
            elif CHAMPION not in client.get_registered_model(name).aliases:
                client.set_registered_model_alias(name, CHAMPION, version)
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        raise Unavailable(
            "the finals are done, but the champion is not registered: MLflow is unavailable "
            f"({first_line(error)}); run the same command again"
        ) from error
    notify(
        f"{name} version {version} is the champion: {task.name}, the finalist with the best validation accuracy; "
        f"load it from models:/{name}@{CHAMPION}"
    )


def _verify(evaluation: FinalEvaluation, tracking_uri: str, model_uri: str, folder: Path) -> dict[str, float]:
    """Parameters and test accuracy of a logged model in a new process, which must be those of the finals."""
    command = [sys.executable, "-P", "-m", "mnist_search.evaluation.verify_model"]
    process = subprocess.run(
        [*command, model_uri, str(folder)],
        capture_output=True,
        text=True,
        timeout=VERIFY_TIMEOUT_SECONDS,
        check=False,
        env=child_environment() | {"MLFLOW_TRACKING_URI": tracking_uri},  # arguments show in the process list
    )
    if process.returncode:
        reason = (process.stderr.strip() or "no error message").splitlines()[-1]
        raise MnistSearchError(f"{model_uri} cannot be loaded in a new process: {reason}")
    results: dict[str, float] = json.loads(process.stdout.splitlines()[-1])
    final = evaluation.final
    same_accuracy = abs(results["test_accuracy"] - (final.test_accuracy or 0.0)) <= ONE_IMAGE
    if results["parameters"] != final.num_params or not same_accuracy:
        raise MnistSearchError(
            f"{model_uri} is not the network that the finals evaluated: {results['parameters']} parameters "
            f"and test accuracy {results['test_accuracy']:.4f} in a new process, {final.num_params} and "
            f"{final.test_accuracy or 0.0:.4f} in the finals"
        )
    return results
