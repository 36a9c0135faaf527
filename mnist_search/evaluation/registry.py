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
from mnist_search.tracking.summary import CHAMPION_TAG, log_summary
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
    name = f"mnist-search-{record.config.budget}"
    notify("writing the finals and the champion to MLflow")
    try:
        with study.lock(LOCK_SECONDS):
            sync.sync("FINISHED")
            run_id, client = sync.run_of(evaluation.final), sync.tracking.client
            version = version_of(client, name, run_id)
            if version is None or study.registered(uri) != run_id:
                version = _register(sync, evaluation, evaluation.weights(store), name, uri, folder)
                study.remember_registered(uri, run_id)
            elif CHAMPION not in client.get_registered_model(name).aliases:
                client.set_registered_model_alias(name, CHAMPION, version)
            _write_statistics(sync, record, evaluation, name, version)
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        raise Unavailable(
            "the finals are done, but the champion is not registered: MLflow is unavailable "
            f"({first_line(error)}); run the same command again"
        ) from error
    notify(
        f"{name} version {version} is the champion: {evaluation.task.name}, the finalist with the best mean "
        f"validation accuracy; load it from models:/{name}@{CHAMPION}"
    )


def _register(
    sync: StudySync, evaluation: FinalEvaluation, weights: bytes, name: str, uri: str, folder: Path
) -> str:
    """Log the model unless it is logged, verify it in a new process, and register it; its version."""
    run_id, client, task = sync.run_of(evaluation.final), sync.tracking.client, evaluation.task
    logged = [each for each in list_models(sync.tracking) if each.source_run_id == run_id]
    study = sync.tracking.study
    model_id = adopt_model(sync.tracking, logged) or log_pt2(
        sync.tracking,
        run_id,
        load_network(task.architecture, weights),
        load_test(folder),
        name=name,
        step=task.training.epochs,
        tags={"study": study},
        evaluated_on="test images",
    )
    try:
        results = _verify(evaluation, uri, f"models:/{model_id}", folder)
    except MnistSearchError:
        client.get_run(run_id)  # an unavailable server is reported as such
        raise
    return register(client, name, model_id, run_id, {"study": study, "seed": task.seed} | results)


def _write_statistics(
    sync: StudySync, record: StudyRecord, evaluation: FinalEvaluation, name: str, version: str
) -> None:
    """Write the mean over the seeds, of which there may be more than before, to the version and the study's run."""
    tracking, statistics = sync.tracking, evaluation.statistics
    for tag in ("n_seeds", "test_accuracy_mean"):
        tracking.client.set_model_version_tag(name, version, tag, str(getattr(statistics, tag)))
    champion = (
        f"{evaluation.task.name}: {percent(statistics.test_accuracy_mean)} of the test images, mean of "
        f"{statistics.n_seeds} seeds"
    )
    set_tags(tracking, tracking.parent_run_id, {CHAMPION_TAG: champion})
    log_summary(tracking, record)


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
