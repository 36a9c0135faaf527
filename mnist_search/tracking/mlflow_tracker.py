"""MLflow as the mirror of a study: one parent run per study for ever, one child per trained trial.

Only the client API is used: the fluent run stack would call a pruned trial failed and a killed
one finished. Nothing here fails a trial: while MLflow cannot be reached, calls are skipped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import mlflow
from mlflow.entities import LifecycleStage, Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient

from mnist_search import __version__
from mnist_search.records import EpochMetrics, StudyRecord
from mnist_search.tracking.base import STATUS, ModelPayload, RunInfo, TrackedRun, TrialEnd, TrialRun
from mnist_search.tracking.circuit_breaker import COOLDOWN_SECONDS, CircuitBreaker, quieten
from mnist_search.tracking.config import TrackingConfig
from mnist_search.tracking.models import log_pt2
from mnist_search.tracking.setup import ROLE_TAG, user
from mnist_search.tracking.summary import leaderboard_csv, study_note


class MlflowRun:
    """The MLflow run of one trial."""

    def __init__(self, client: MlflowClient, reach: CircuitBreaker, run_id: str | None) -> None:
        self._client = client
        self._reach = reach
        self.run_id = run_id
        self._written = 0

    def log_epoch(self, epoch: EpochMetrics) -> None:
        """Write one epoch in one call."""
        self._written += bool(self._log([epoch]))

    def end(self, ending: TrialEnd) -> None:
        """Write what is missing; the run gets its last status only when all of it is there."""
        run_id = self.run_id
        if run_id is None:
            return
        if self._written < len(ending.curve) and not self._log(ending.curve):
            return
        self._reach("the end of a run", lambda: self._close(run_id, ending))

    def _log(self, curve: Sequence[EpochMetrics]) -> bool | None:
        run_id = self.run_id
        if run_id is None:
            return None

        def write() -> bool:
            self._client.log_batch(run_id, metrics=[m for r in curve for m in _metrics(r)])
            return True

        return self._reach("an epoch", write)

    def _close(self, run_id: str, ending: TrialEnd) -> None:
        tags: dict[str, str] = {"state": ending.state, "trial.state": ending.state}
        if ending.reason:
            tags["reason"] = ending.reason
        self._client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()])
        if ending.curve:
            from mnist_search.tracking.figures import learning_curve  # matplotlib

            figure = learning_curve(ending.curve, f"{ending.state.lower()}: {len(ending.curve)} epochs")
            self._client.log_figure(run_id, figure, "learning_curve.png")
        self._client.set_terminated(run_id, STATUS[ending.state], ending.completed_ms)


class MlflowTracker:
    """Writes a study and its trials to MLflow.

    Args:
        place: with the experiment and the parent run that ``prepare`` found or made.
        study: name of the study, for tags.
        warn: told once in plain words when MLflow cannot be reached.
        quiet_seconds: how long it is left alone then.
    """

    def __init__(
        self,
        config: TrackingConfig,
        study: str,
        warn: Callable[[str], None],
        quiet_seconds: float = COOLDOWN_SECONDS,
    ) -> None:
        quieten()
        mlflow.set_tracking_uri(config.tracking_uri)
        self._client = MlflowClient(config.tracking_uri)
        self._config = config
        self._study = study
        self._reach = CircuitBreaker(warn, quiet_seconds)

    def start_trial(self, card: RunInfo) -> TrialRun:
        """Open a child run with its parameters, tags and layer table."""
        run_id = self._reach("a new run", lambda: self._create(card))
        return MlflowRun(self._client, self._reach, run_id)

    def reopen_trial(self, run_id: str) -> TrialRun:
        """Continue with a child run; its whole curve is written again at its end."""
        return MlflowRun(self._client, self._reach, run_id)

    def delete_run(self, run_id: str) -> None:
        """Delete a run; MLflow keeps it in its bin until ``mlflow gc``."""
        self._reach("the end of a stale run", lambda: self._discard(run_id))

    def tracked_runs(self) -> list[TrackedRun] | None:
        """The child runs of this study."""
        return self._reach("a question", self._children)

    def log_model(self, run_id: str, model: ModelPayload) -> str | None:
        """Log a network as ``pt2`` with its confusion matrix."""
        return self._reach("a model", lambda: self._log_model(run_id, model))

    def delete_model(self, model_id: str) -> bool:
        """Delete a logged model and its files."""
        return bool(self._reach("the end of a model", lambda: self._drop_model(model_id)))

    def update_study(self, record: StudyRecord, *, status: str = "RUNNING") -> None:
        """Refresh the parent run's summary."""
        self._reach("the study's summary", lambda: self._update_study(record, status))

    def log_study_page(self, html: str, name: str) -> None:
        """Keep a page with the parent run."""
        parent = self._config.parent_run_id
        self._reach("the study's plots", lambda: self._client.log_text(parent, html, name))

    def _create(self, card: RunInfo) -> str:
        tags = {
            "mlflow.parentRunId": self._config.parent_run_id,
            "mlflow.user": user(),
            "mlflow.source.name": "mnist-search",
            ROLE_TAG: "trial",
            "study": self._study,
            "trial": str(card.number),
            "state": "RUNNING",
            "trial.state": "RUNNING",
            "seed": str(card.seed),
            "version": __version__,
        }
        run = self._client.create_run(
            self._config.experiment_id, tags=tags, run_name=f"{self._study} trial {card.number}"
        )
        run_id: str = run.info.run_id
        self._client.log_batch(
            run_id,
            params=[Param(name, str(value)) for name, value in card.params.items()],
            metrics=[Metric("num_params", card.num_params, _now_ms(), 0)],
        )
        self._client.log_text(run_id, card.layer_table, "layers.txt")
        return run_id

    def _children(self) -> list[TrackedRun]:
        tags = f"tags.`mlflow.parentRunId` = '{self._config.parent_run_id}'"
        found: list[TrackedRun] = []
        token = None
        while True:
            page = self._client.search_runs(
                [self._config.experiment_id], tags, ViewType.ACTIVE_ONLY, 1000, page_token=token
            )
            found += [
                TrackedRun(run.info.run_id, int(run.data.tags.get("trial", -1)), run.info.status)
                for run in page
                if run.data.tags.get(ROLE_TAG) == "trial"
            ]
            token = page.token
            if not token:
                return found

    def _discard(self, run_id: str) -> None:
        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return
            raise
        if run.info.lifecycle_stage == LifecycleStage.ACTIVE:
            self._client.set_terminated(run_id, "KILLED")
            self._client.delete_run(run_id)

    def _log_model(self, run_id: str, model: ModelPayload) -> str:
        trial = self._client.get_run(run_id).data.tags["trial"]
        name, tags = f"{self._study}-trial-{trial}", {"study": self._study}
        return log_pt2(self._client, self._config.experiment_id, run_id, model, name, tags)

    def _drop_model(self, model_id: str) -> bool:
        with suppress(MlflowException):  # gone already
            location = self._client.get_logged_model(model_id).artifact_location
            self._client.delete_logged_model(model_id)
            get_artifact_repository(location).delete_artifacts()
        return True

    def _update_study(self, record: StudyRecord, status: str) -> None:
        parent, now = self._config.parent_run_id, _now_ms()
        done, best = len(record.done), record.best
        metrics = [Metric("trials_done", done, now, done), Metric("rejected", record.rejected, now, done)]
        if best is not None:
            metrics.append(Metric("best_val_accuracy", best.val_accuracy or 0.0, now, done))
            metrics.append(Metric("best_num_params", best.num_params or 0, now, done))
        tags = {
            "mlflow.note.content": study_note(record),
            "trials": f"{done}/{record.n_trials}",
            "best_trial": str(best.number) if best else "",
        }
        self._client.log_batch(parent, metrics=metrics, tags=[RunTag(k, v) for k, v in tags.items()])
        self._client.log_text(parent, leaderboard_csv(record), "leaderboard.csv")
        if status == "RUNNING":
            self._client.update_run(parent, status)
        else:
            self._client.set_terminated(parent, status)


def _metrics(epoch: EpochMetrics) -> list[Metric]:
    """An epoch as metrics; writing the same point twice is one point to MLflow."""
    step, timestamp = int(epoch["epoch"]), int(epoch["timestamp"])
    names = (name for name in epoch if name not in {"epoch", "timestamp"})
    return [Metric(name, epoch[name], timestamp, step) for name in names]


def _now_ms() -> int:
    return int(time.time() * 1000)
