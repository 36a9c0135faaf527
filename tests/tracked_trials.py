"""Trained trials in a store, and what a real MLflow has of them."""

from __future__ import annotations

from mlflow.entities import ViewType
from optuna.trial import TrialState
from safetensors.torch import save

from experiments import BASELINES
from mnist_search.records import EpochMetrics, FinalTask
from mnist_search.training.model import build


def epoch_metrics(epoch, accuracy=0.5):
    return EpochMetrics(
        epoch=epoch,
        train_loss=1 / epoch,
        train_accuracy=0.8,
        val_loss=0.5 / epoch,
        val_accuracy=accuracy,
        learning_rate=0.1,
        seconds=1.5,
        samples_per_second=4000.0,
        timestamp=1_700_000_000_000 + epoch,
    )


def start(search_study, *, epochs=0):
    """Claim a trial and train some epochs; the claim."""
    claim = search_study.claim()
    architecture = search_study.config.space.architecture(claim.trial.params)
    claim.trial.set_user_attr("num_params", architecture.num_params())
    claim.trial.set_user_attr("device", "cpu")
    for epoch in range(1, epochs + 1):
        search_study.queue.report(claim, epoch_metrics(epoch))
    return claim


def train(search_study, state="COMPLETE", accuracy=0.5, *, reason=None, keep=0):
    """Train a trial of two epochs to its end; the claim."""
    claim = start(search_study, epochs=1)
    search_study.queue.report(claim, epoch_metrics(2, accuracy))
    architecture = search_study.config.space.architecture(claim.trial.params)
    is_complete = state == "COMPLETE"
    search_study.queue.finish(
        claim,
        TrialState[state],
        (accuracy,) if is_complete else None,
        attributes={"reason": reason} if reason else None,
        safetensors=save(build(architecture, seed=0).state_dict()) if is_complete and keep else None,
        keep=keep,
    )
    return claim


def final_task(name="trial 3", seed=0, evaluate="once"):
    baseline = BASELINES["seed-001"]
    return FinalTask(
        name=name,
        seed=seed,
        architecture=baseline.architecture,
        training=baseline.training,
        evaluate=evaluate,
    )


def train_final(finals, *, evaluate="once"):
    """Train the next final trial to its end; the claim."""
    claim = finals.queue.claim()
    claim.trial.set_user_attr("device", "cpu")
    for epoch in (1, 2):
        metrics = {"val_loss": None, "val_accuracy": None} if evaluate == "once" else {}
        finals.queue.report(claim, EpochMetrics(**epoch_metrics(epoch, 0.9).to_dict() | metrics))
    finals.queue.finish(claim, TrialState.COMPLETE, (0.93, 0.2), keep=None)
    return claim


def runs_in(client, role="trial", view=ViewType.ACTIVE_ONLY):
    """Runs of all experiments by role, oldest trial first."""
    experiments = [e.experiment_id for e in client.search_experiments(view_type=ViewType.ALL)]
    query = f"tags.role = '{role}'"
    runs = client.search_runs(experiments, query, view)
    return sorted(runs, key=number_of)


def number_of(run):
    """The number of the trial or final trial of a run; 0 for the run of a study."""
    return int(run.data.tags.get("final", run.data.tags.get("trial", 0)))


def models_in(client):
    """Logged models of all experiments."""
    return client.search_logged_models([e.experiment_id for e in client.search_experiments()])


def points(client, run_id, name):
    """Step and value of every point of a metric."""
    return [(point.step, point.value) for point in client.get_metric_history(run_id, name)]


def artifacts(client, run_id):
    """Paths of a run's artifacts."""
    return {artifact.path for artifact in client.list_artifacts(run_id)}


def contents(client):
    """Everything that MLflow has: runs with their points, tags, params and artifacts, and models."""
    found = {
        run.info.run_id: (
            run.info.status,
            run.info.lifecycle_stage,
            run.info.start_time,
            run.data.tags,
            run.data.params,
            {name: points(client, run.info.run_id, name) for name in run.data.metrics},
            artifacts(client, run.info.run_id),
        )
        for role in ("study", "trial", "final")
        for run in runs_in(client, role, ViewType.ALL)
    }
    return found, {model.model_id: (model.source_run_id, str(model.status)) for model in models_in(client)}
