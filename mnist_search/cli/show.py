"""Verbs that show studies and trials: status, studies, trials, best, explain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mnist_search.cli import options as opt
from mnist_search.cli.output import print_fields, print_json, print_rows
from mnist_search.errors import NotFound

if TYPE_CHECKING:
    from mnist_search.records import StudyRecord, TrialRecord


def load_studies(storage: str, names: list[str] | None = None) -> list[StudyRecord]:
    """The named studies, or every study of the store.

    Raises:
        NotFound: no store, or no such study.
    """
    from mnist_search.storage import database, studies

    store = database.Store.open(storage)
    selected = [studies.load(store, name) for name in names or ()] or studies.mnist_search_studies(store)
    return [studies.study_record(store, study) for study in selected]


def _latest(storage: str) -> StudyRecord:
    studies = load_studies(storage)
    if not studies:
        raise NotFound("the store has no studies; start one with mnist-search run --budget 8000")
    starts = {
        s.name: max((t.started.timestamp() for t in s.trials if t.started), default=0.0) for s in studies
    }
    return max(studies, key=lambda study: starts[study.name])


def status(
    study: Annotated[str | None, typer.Argument(help="Name of the study.", show_default="the latest")] = None,
    output_format: opt.FormatOption = opt.Format.TABLE,
    storage: opt.StorageOption = opt.DEFAULT_STORAGE,
) -> None:
    """Show the progress of a study: its trials by state, its best trial."""
    record = load_studies(storage, [study])[0] if study else _latest(storage)
    print_fields(study_status(record), output_format)


def study_status(record: StudyRecord) -> dict[str, Any]:
    """Progress of a study, as one document."""
    states = [trial.state for trial in record.slots]
    return {
        "study": record.name,
        "budget": record.config.budget,
        "n_trials": record.n_trials,
        "trials_done": len(record.done),
        "complete": states.count("COMPLETE"),
        "pruned": states.count("PRUNED"),
        "failed": states.count("FAIL"),
        "running": states.count("RUNNING"),
        "waiting": states.count("WAITING"),
        "rejected": record.rejected,
        "trained_epochs": record.trained_epochs,
        "best": _best_of(record),
    }


def _best_of(record: StudyRecord) -> dict[str, Any] | None:
    best = record.best
    if best is None:
        return None
    return {
        "number": best.number,
        "val_accuracy": best.val_accuracy,
        "num_params": best.num_params,
        "architecture": str(record.config.space.architecture(best.params)),
    }


def studies(
    output_format: opt.FormatOption = opt.Format.TABLE, storage: opt.StorageOption = opt.DEFAULT_STORAGE
) -> None:
    """List the studies of the store."""
    columns = ("study", "budget", "trials_done", "n_trials", "best_val_accuracy", "rejected")
    rows = []
    for record in load_studies(storage):
        row = study_status(record)
        rows.append(row | {"best_val_accuracy": record.best.val_accuracy if record.best else None})
    print_rows(rows, output_format, columns)


def trials(
    study: opt.StudyArgument,
    output_format: opt.FormatOption = opt.Format.TABLE,
    storage: opt.StorageOption = opt.DEFAULT_STORAGE,
) -> None:
    """List the trials of a study."""
    columns = ("number", "state", "num_params", "val_accuracy", "epochs", "seconds", "reason", "architecture")
    record = load_studies(storage, [study])[0]
    print_rows([_trial_row(record, trial) for trial in record.trials], output_format, columns)


def _trial_row(record: StudyRecord, trial: TrialRecord) -> dict[str, Any]:
    is_sampled = record.config.space.architecture_params.keys() <= trial.params.keys()
    return {
        "number": trial.number,
        "state": trial.state,
        "num_params": trial.num_params,
        "val_accuracy": trial.val_accuracy,
        "val_loss": trial.val_loss,
        "epochs": trial.epochs,
        "seconds": trial.seconds,
        "run_id": trial.run_id,
        "model_id": trial.model_id,
        "reason": trial.reason,
        "rejected_draws": trial.rejected,
        "device": trial.device,
        "architecture": str(record.config.space.architecture(trial.params)) if is_sampled else None,
    }


def best(
    study: opt.StudyArgument,
    output_format: opt.FormatOption = opt.Format.TABLE,
    storage: opt.StorageOption = opt.DEFAULT_STORAGE,
) -> None:
    """Show the best trial of a study."""
    record = load_studies(storage, [study])[0]
    trial = record.best
    if trial is None:
        raise NotFound(f"study {study!r} has no complete trial; see mnist-search status {study}")
    document = {"study": study} | _trial_row(record, trial) | record.config.space.describe(trial.params)
    print_fields(document, output_format)


def explain(
    study: opt.StudyArgument,
    number: Annotated[int, typer.Argument(metavar="trial", help="Number of the trial.", min=0)],
    output_format: opt.FormatOption = opt.Format.TABLE,
    storage: opt.StorageOption = opt.DEFAULT_STORAGE,
) -> None:
    """Show a trial's layers, training configuration, learning curve and why it ended."""
    record = load_studies(storage, [study])[0]
    trial = record.trial(number)
    if trial is None:
        raise NotFound(f"study {study!r} has no trial {number}; mnist-search trials {study} lists them")
    document = _trial_row(record, trial) | {"traceback": trial.traceback}
    layers: list[dict[str, Any]] = []
    if record.config.space.distributions.keys() <= trial.params.keys():
        config = record.config.space.decode(trial.params)
        document |= record.config.space.describe(trial.params) | {"training": str(config.training)}
        layers = [
            {
                "layer": repr(cost.layer),
                "output": "x".join(map(str, cost.output_shape)),
                "num_params": cost.num_params,
                "multiply_adds": cost.multiply_adds,
            }
            for cost in config.architecture.costs()
        ]
    if output_format == opt.Format.JSON:
        print_json(document | {"layers": layers, "curve": [epoch.to_dict() for epoch in trial.curve]})
        return
    print_fields(document, output_format)
    print_rows(layers, output_format, ("layer", "output", "num_params", "multiply_adds"))
    curve = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds")
    print_rows([epoch.to_dict() for epoch in trial.curve], output_format, curve)
