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
    from mnist_search.facts import StudyFacts, TrialFacts


def load_studies(storage: str, names: list[str] | None = None) -> list[StudyFacts]:
    """The named studies, or all of them.

    Raises:
        NotFound: no store, or no such study.
    """
    from mnist_search.study import reading  # Optuna, only for verbs that read
    from mnist_search.study.store import Store

    store = Store.open(storage)
    found = [reading.load(store, name) for name in names] if names else reading.our_studies(store)
    return [reading.study_facts(store, study) for study in found]


def _latest(storage: str) -> StudyFacts:
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
    facts = load_studies(storage, [study])[0] if study else _latest(storage)
    print_fields(status_of(facts), how)


def status_of(facts: StudyFacts) -> dict[str, Any]:
    """Where a study stands, as one document."""
    states = [trial.state for trial in facts.places]
    return {
        "study": facts.name,
        "budget": facts.experiment.budget,
        "trials_target": facts.trials_target,
        "trials_done": len(facts.done),
        "complete": states.count("COMPLETE"),
        "pruned": states.count("PRUNED"),
        "failed": states.count("FAIL"),
        "running": states.count("RUNNING"),
        "waiting": states.count("WAITING"),
        "rejected": facts.rejected,
        "trained_epochs": facts.trained_epochs,
        "best": best_of(facts),
    }


def best_of(facts: StudyFacts) -> dict[str, Any] | None:
    """The best trial in short."""
    best = facts.best
    if best is None:
        return None
    return {
        "number": best.number,
        "val_accuracy": best.val_accuracy,
        "num_params": best.num_params,
        "architecture": str(facts.experiment.space.architecture(best.genes)),
    }


def studies(how: FormatOption = Format.TABLE, storage: StorageOption = DEFAULT_STORAGE) -> None:
    """List the studies of the store."""
    columns = ("study", "budget", "trials_done", "trials_target", "best_val_accuracy", "rejected")
    rows = []
    for facts in load_studies(storage):
        row = status_of(facts)
        rows.append(row | {"best_val_accuracy": (row["best"] or {}).get("val_accuracy")})
    print_rows(rows, how, columns)


def trials(
    study: StudyArgument,
    how: FormatOption = Format.TABLE,
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """List the trials of a study."""
    columns = ("number", "state", "num_params", "val_accuracy", "epochs", "seconds", "reason", "architecture")
    facts = load_studies(storage, [study])[0]
    print_rows([trial_row(facts, trial) for trial in facts.trials], how, columns)


def trial_row(facts: StudyFacts, trial: TrialFacts) -> dict[str, Any]:
    """One trial as programs read it; accuracies are fractions, durations seconds."""
    genes = facts.experiment.space.architecture_genes.keys() <= trial.genes.keys()
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
        "architecture": str(facts.experiment.space.architecture(trial.genes)) if genes else None,
    }


def best(
    study: StudyArgument,
    how: FormatOption = Format.TABLE,
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """Show the best trial of a study."""
    facts = load_studies(storage, [study])[0]
    found = facts.best
    if found is None:
        raise NotFound(f"study {study!r} has no complete trial yet; mnist-search status {study}")
    document = {"study": study} | trial_row(facts, found) | facts.experiment.space.describe(found.genes)
    print_fields(document, how)


def explain(
    study: StudyArgument,
    trial: Annotated[int, typer.Argument(help="Number of the trial.", min=0)],
    how: FormatOption = Format.TABLE,
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """Show a trial's network layer by layer, its training, its curve and why it ended."""
    facts = load_studies(storage, [study])[0]
    found = facts.trial(trial)
    if found is None:
        raise NotFound(f"study {study!r} has no trial {trial}; mnist-search trials {study} lists them")
    document = trial_row(facts, found) | {"traceback": found.traceback}
    layers: list[dict[str, Any]] = []
    if facts.experiment.space.distributions.keys() <= found.genes.keys():
        config = facts.experiment.space.decode(found.genes)
        document |= facts.experiment.space.describe(found.genes) | {"training": str(config.training)}
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
