"""The verb that deletes a study."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer
from typer import echo

from mnist_search.cli import options as opt
from mnist_search.cli.options import option
from mnist_search.errors import MnistSearchError, Unavailable, UsageError, first_line

if TYPE_CHECKING:
    import optuna

    from mnist_search.storage.database import Store


def delete(
    study: opt.StudyArgument,
    *,
    yes: Annotated[bool, option("Do not ask.", "--yes", "-y")] = False,
    mlflow: Annotated[
        bool, option("Delete its runs, models and registered versions in MLflow, too.", "--mlflow")
    ] = False,
    storage: opt.StorageOption = opt.DEFAULT_STORAGE,
    tracking_uri: opt.TrackingOption = opt.DEFAULT_TRACKING,
) -> None:
    """Delete a study with its finals, epochs and weights from the store."""
    from mnist_search.search.study import quiet_optuna
    from mnist_search.storage.database import Store
    from mnist_search.storage.deletion import check_is_idle, delete_studies, with_finals
    from mnist_search.storage.tracked import TrackedStudy

    with quiet_optuna():
        store = Store.open(storage, write=True)
    deleted = with_finals(store, study)
    for each in deleted:
        check_is_idle(store, each)
    names = ", ".join(f"{each.study_name} ({len(each.trials)} trials)" for each in reversed(deleted))
    _confirm(
        f"delete {names}{' and their runs and models in MLflow' if mlflow else '; runs and models stay in MLflow'}?",
        yes=yes,
    )
    with ExitStack() as locks:
        tracked = [TrackedStudy(store, each.study_name) for each in deleted]
        for study_to_lock in tracked:
            locks.enter_context(study_to_lock.lock(LOCK_SECONDS))
        if mlflow:
            echo(_delete_from_mlflow(store, deleted, tracking_uri))
        is_linked = any(trial.run_id for each in tracked for trial in each.record().trials)
        delete_studies(store, deleted)
    kept = "; its runs and models stay in MLflow" if is_linked and not mlflow else ""
    echo(f"deleted {names}{kept}")


LOCK_SECONDS = 10.0
"""How long to wait for a process that writes the study to MLflow."""


def _confirm(question: str, *, yes: bool) -> None:
    try:
        if yes or typer.confirm(question, err=True):
            return
    except typer.Abort as error:
        raise UsageError("nothing was deleted: the question has no answer; pass --yes") from error
    raise MnistSearchError("nothing was deleted")


def _delete_from_mlflow(store: Store, deleted: list[optuna.Study], tracking_uri: str) -> str:
    from mnist_search.records import counted
    from mnist_search.storage.tracked import TrackedStudy
    from mnist_search.tracking.config import make_tracking_config
    from mnist_search.tracking.deletion import delete_from_mlflow

    studies = [TrackedStudy(store, each.study_name) for each in deleted]
    linked = {trial.run_id for study in studies for trial in study.record().trials if trial.run_id}
    config = make_tracking_config(tracking_uri, "")
    try:
        n_runs, n_models, n_versions = delete_from_mlflow(config, [study.uid for study in studies], linked)
    except MnistSearchError:
        raise
    except Exception as error:  # whatever the tracking server raises
        raise Unavailable(
            f"nothing was deleted from the store: MLflow is unavailable ({first_line(error)}); run the same "
            "command again, or leave out --mlflow"
        ) from error
    counts = counted(n_runs, "run"), counted(n_models, "model"), counted(n_versions, "registered version")
    return f"deleted {counts[0]}, {counts[1]} and {counts[2]} from MLflow; mlflow gc removes the runs' files"
