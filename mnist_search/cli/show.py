"""Verbs that read the store: status, studies, trials, best, explain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mnist_search.cli.options import (
    DEFAULT_STORAGE,
    Format,
    FormatOption,
    StorageOption,
    StudyArgument,
)
from mnist_search.cli.output import print_fields, print_json, print_rows
from mnist_search.errors import NotFound

if TYPE_CHECKING:
    from mnist_search.records import StudyRecord, TrialRecord


def load_studies(storage: str, names: list[str] | None = None) -> list[StudyRecord]:
    """The named studies, or all of them.

    Raises:
        NotFound: no store, or no such study.
    """
    from mnist_search.storage import studies  # Optuna, only for verbs that read
    from mnist_search.storage.database import Store

    store = Store.open(storage)
    found = [studies.load(store, name) for name in names] if names else studies.mnist_search_studies(store)
    return [studies.study_record(store, study) for study in found]


def _latest(storage: str) -> StudyRecord:
    studies = load_studies(storage)
    if not studies:
        raise NotFound("the store holds no study; begin one with mnist-search run --budget 8000")
    starts = {
        s.name: max((t.started.timestamp() for t in s.trials if t.started), default=0.0) for s in studies
    }
    return max(studies, key=lambda study: starts[study.name])


def status(
    study: Annotated[str | None, typer.Argument(help="Name of the study; the latest by default.")] = None,
    how: FormatOption = Format.TABLE,
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """Say how far a study is."""
    record = load_studies(storage, [study])[0] if study else _latest(storage)
    print_fields(status_of(record), how)


def status_of(record: StudyRecord) -> dict[str, Any]:
    """Where a study stands, as one document."""
    states = [trial.state for trial in record.slots]
    return {
        "study": record.name,
        "budget": record.config.budget,
        "trials_target": record.n_trials,
        "trials_done": len(record.done),
        "complete": states.count("COMPLETE"),
        "pruned": states.count("PRUNED"),
        "failed": states.count("FAIL"),
        "running": states.count("RUNNING"),
        "waiting": states.count("WAITING"),
        "rejected": record.rejected,
        "trained_epochs": record.trained_epochs,
        "best": best_of(record),
    }


def best_of(record: StudyRecord) -> dict[str, Any] | None:
    """The best trial in short."""
    best = record.best
    if best is None:
        return None
    return {
        "number": best.number,
        "val_accuracy": best.val_accuracy,
        "num_params": best.num_params,
        "architecture": str(record.config.space.architecture(best.params)),
    }


def studies(how: FormatOption = Format.TABLE, storage: StorageOption = DEFAULT_STORAGE) -> None:
    """List the studies of the store."""
    columns = ("study", "budget", "trials_done", "trials_target", "best_val_accuracy", "rejected")
    rows = []
    for record in load_studies(storage):
        row = status_of(record)
        rows.append(row | {"best_val_accuracy": (row["best"] or {}).get("val_accuracy")})
    print_rows(rows, how, columns)


def trials(
    study: StudyArgument,
    how: FormatOption = Format.TABLE,
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """List the trials of a study."""
    columns = ("number", "state", "num_params", "val_accuracy", "epochs", "seconds", "reason", "architecture")
    record = load_studies(storage, [study])[0]
    print_rows([trial_row(record, trial) for trial in record.trials], how, columns)


def trial_row(record: StudyRecord, trial: TrialRecord) -> dict[str, Any]:
    """One trial as programs read it; accuracies are fractions, durations seconds."""
    params = record.config.space.architecture_params.keys() <= trial.params.keys()
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
        "architecture": str(record.config.space.architecture(trial.params)) if params else None,
    }


def best(
    study: StudyArgument,
    how: FormatOption = Format.TABLE,
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """Show the best trial of a study."""
    record = load_studies(storage, [study])[0]
    found = record.best
    if found is None:
        raise NotFound(f"study {study!r} has no complete trial yet; mnist-search status {study}")
    document = {"study": study} | trial_row(record, found) | record.config.space.describe(found.params)
    print_fields(document, how)


def explain(
    study: StudyArgument,
    trial: Annotated[int, typer.Argument(help="Number of the trial.", min=0)],
    how: FormatOption = Format.TABLE,
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """Show a trial's network layer by layer, its training, its curve and why it ended."""
    record = load_studies(storage, [study])[0]
    found = record.trial(trial)
    if found is None:
        raise NotFound(f"study {study!r} has no trial {trial}; mnist-search trials {study} lists them")
    document = trial_row(record, found) | {"traceback": found.traceback}
    layers: list[dict[str, Any]] = []
    if record.config.space.distributions.keys() <= found.params.keys():
        config = record.config.space.decode(found.params)
        document |= record.config.space.describe(found.params) | {"training": str(config.training)}
        layers = [
            {
                "layer": repr(cost.layer),
                "output": "x".join(map(str, cost.output_shape)),
                "num_params": cost.num_params,
                "multiply_adds": cost.multiply_adds,
            }
            for cost in config.architecture.costs()
        ]
    if how == Format.JSON:
        print_json(document | {"layers": layers, "curve": list(found.curve)})
        return
    print_fields(document, how)
    print_rows(layers, how, ("layer", "output", "num_params", "multiply_adds"))
    curve = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds")
    print_rows(found.curve, how, curve)
