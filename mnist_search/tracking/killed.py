"""Runs of killed commands, which MLflow shows as running until the next command that writes to MLflow."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mnist_search.errors import TryAgain
from mnist_search.storage import studies
from mnist_search.storage.database import Store
from mnist_search.storage.queue import TrialQueue
from mnist_search.storage.tracked import TrackedStudy
from mnist_search.tracking.config import Notify, TrackingConfig
from mnist_search.tracking.sync import StudySync

LOCK_SECONDS = 0.1
"""How long to wait for a process that writes the study: it writes its end, too."""


def end_runs_of_killed(
    store: Store,
    name: str,
    config: TrackingConfig,
    data_dir: Path | None,
    notify: Notify,
    on_progress: Callable[[], None] = lambda: None,
) -> None:
    """Write to MLflow how a study of either kind has ended, if no trial of it is running.

    Nothing is written unless runs are running there, or runs are missing.

    The arguments are those of ``StudySync``; the store is open for writing, and need not have the study.

    Raises:
        MlflowException, SQLAlchemyError, OSError, ImportError: MLflow or the store is unavailable.
    """
    study = studies.find(store, name)
    if study is None:
        return
    tracked = TrackedStudy(store, name)
    with suppress(TryAgain), tracked.lock(LOCK_SECONDS):
        sync = StudySync(tracked, config, data_dir, notify, on_progress)
        if not sync.is_outdated():
            return
        TrialQueue(store, study).release_expired()
        record = tracked.record()
        if not any(trial.state == "RUNNING" for trial in record.trials):
            sync.sync("FINISHED" if len(record.done) >= record.n_trials else "KILLED")
