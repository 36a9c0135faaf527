"""MLflow runs of a study: one parent run per study, one child run per trained trial.

Only the client API is used: the fluent API would mark a pruned trial FAILED and a killed one
FINISHED. No call fails a trial: while MLflow is unavailable, calls are skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from mlflow.entities import LifecycleStage, Metric, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient

from mnist_search import __version__
from mnist_search.records import EpochMetrics, StudyRecord
from mnist_search.tracking.base import STATUS, ModelPayload, RunInfo, TrackedRun, Tracker, TrialEnd, TrialRun
from mnist_search.tracking.circuit_breaker import COOLDOWN_SECONDS, CircuitBreaker
from mnist_search.tracking.config import TrackingConfig
from mnist_search.tracking.runs import PARENT_TAG, ROLE_TAG, connect, create_run, epoch_metrics, now_ms
from mnist_search.tracking.summary import leaderboard_csv, study_note


class MlflowRun(TrialRun):
    """The MLflow run of one trial."""

    def __init__(self, client: MlflowClient, call: CircuitBreaker, run_id: str | None) -> None:
        self._client = client
        self._call = call
        self.run_id = run_id
        self._logged = 0

    def log_epoch(self, epoch: EpochMetrics) -> None:
        """Log one epoch in one call."""
        self._logged += bool(self._log([epoch]))

    def end(self, trial_end: TrialEnd) -> None:
        """Log missing epochs; the run is terminated only after all of them are logged."""
        run_id = self.run_id
        if run_id is None:
            return
        if self._logged < len(trial_end.curve) and not self._log(trial_end.curve):
            return
        self._call("end a run", lambda: self._terminate(run_id, trial_end))

    def _log(self, curve: Sequence[EpochMetrics]) -> bool | None:
        run_id = self.run_id
        if run_id is None:
            return None

        def log() -> bool:
            metrics = [metric for epoch in curve for metric in epoch_metrics(epoch.to_dict())]
            self._client.log_batch(run_id, metrics=metrics)
            return True

        return self._call("log an epoch", log)

    def _terminate(self, run_id: str, trial_end: TrialEnd) -> None:
        tags = {"state": trial_end.state, "trial.state": trial_end.state, "reason": trial_end.reason}
        self._client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items() if v])
        if trial_end.curve:
            from mnist_search.tracking.figures import learning_curve  # matplotlib

            title = f"{trial_end.state.lower()}: {len(trial_end.curve)} epochs"
            self._client.log_figure(run_id, learning_curve(trial_end.curve, title), "learning_curve.png")
        self._client.set_terminated(run_id, STATUS[trial_end.state], trial_end.completed_ms)


class MlflowTracker(Tracker):
    """Logs a study and its trials to MLflow.

    Args:
        config: with the experiment and the parent run, from ``setup.prepare``.
        study: name of the study, for tags.
        warn: receives one message when MLflow is unavailable.
        cooldown_seconds: time without calls after a failed one.
    """

    def __init__(
        self,
        config: TrackingConfig,
        study: str,
        warn: Callable[[str], None],
        cooldown_seconds: float = COOLDOWN_SECONDS,
    ) -> None:
        self._client = connect(config.tracking_uri)
        self._config = config
        self._study = study
        self._call = CircuitBreaker(warn, cooldown_seconds)

    def start_trial(self, info: RunInfo) -> TrialRun:
        """Create a child run with params, tags and the layer table."""
        return self.reopen_trial(self._call("create a run", lambda: self._create(info)))

    def reopen_trial(self, run_id: str | None) -> TrialRun:
        """Continue a child run; its whole curve is logged again at the end."""
        return MlflowRun(self._client, self._call, run_id)

    def delete_run(self, run_id: str) -> None:
        """Delete a run; MLflow keeps it as deleted until ``mlflow gc``."""
        self._call("delete a stale run", lambda: self._delete_run(run_id))

    def tracked_runs(self) -> list[TrackedRun] | None:
        """The child runs of this study; None while MLflow is unavailable."""
        return self._call("list the runs", self._trial_runs)

    def log_model(self, run_id: str, model: ModelPayload) -> str | None:
        """Log a network as ``pt2`` with its confusion matrix."""
        return self._call("log a model", lambda: self._log_model(run_id, model))

    def delete_model(self, model_id: str) -> bool:
        """Delete a logged model and its files."""
        return bool(self._call("delete a model", lambda: self._delete_model(model_id)))

    def update_study(self, record: StudyRecord, *, status: str = "RUNNING") -> None:
        """Update the parent run's summary."""
        self._call("update the parent run", lambda: self._update_study(record, status))

    def log_study_page(self, html: str, name: str) -> None:
        """Log an HTML page to the parent run."""
        parent = self._config.parent_run_id
        self._call(f"log {name}", lambda: self._client.log_text(parent, html, name))

    def _create(self, info: RunInfo) -> str:
        tags = {
            "study": self._study,
            "trial": str(info.number),
            "state": "RUNNING",
            "trial.state": "RUNNING",
            "seed": str(info.seed),
            "version": __version__,
        }
        run_id = create_run(
            self._client, self._config, "trial", f"{self._study} trial {info.number}",
            tags=tags, params=info.params, metrics=[Metric("num_params", info.num_params, now_ms(), 0)],
        )  # fmt: skip
        self._client.log_text(run_id, info.layer_table, "layers.txt")
        return run_id

    def _trial_runs(self) -> list[TrackedRun]:
        query = f"tags.`{PARENT_TAG}` = '{self._config.parent_run_id}'"
        runs: list[TrackedRun] = []
        token = None
        while True:
            page = self._client.search_runs(
                [self._config.experiment_id], query, ViewType.ACTIVE_ONLY, 1000, page_token=token
            )
            runs += [
                TrackedRun(run.info.run_id, int(run.data.tags.get("trial", -1)), run.info.status)
                for run in page
                if run.data.tags.get(ROLE_TAG) == "trial"
            ]
            token = page.token
            if not token:
                return runs

    def _delete_run(self, run_id: str) -> None:
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
        from mnist_search.tracking.models import log_pt2  # torch

        trial = self._client.get_run(run_id).data.tags["trial"]
        name, tags = f"{self._study}-trial-{trial}", {"study": self._study}
        return log_pt2(self._client, self._config.experiment_id, run_id, model, name, tags)

    def _delete_model(self, model_id: str) -> bool:
        with suppress(MlflowException):  # it no longer exists
            location = self._client.get_logged_model(model_id).artifact_location
            self._client.delete_logged_model(model_id)
            get_artifact_repository(location).delete_artifacts()
        return True

    def _update_study(self, record: StudyRecord, status: str) -> None:
        parent, done, best = self._config.parent_run_id, len(record.done), record.best
        values: dict[str, float] = {"trials_done": done, "rejected": record.rejected}
        if best is not None:
            values["best_val_accuracy"] = best.val_accuracy or 0.0
            values["best_num_params"] = best.num_params or 0
        tags = {
            "mlflow.note.content": study_note(record),
            "trials": f"{done}/{record.n_trials}",
            "best_trial": str(best.number) if best else "",
        }
        self._client.log_batch(
            parent,
            metrics=epoch_metrics(values | {"epoch": done, "timestamp": now_ms()}),
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
        self._client.log_text(parent, leaderboard_csv(record), "leaderboard.csv")
        if status == "RUNNING":
            self._client.update_run(parent, status)
        else:
            self._client.set_terminated(parent, status)
