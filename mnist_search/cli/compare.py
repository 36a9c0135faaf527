"""The verb ``compare``: the best of our studies beside the five seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mnist_search.cli.options import DEFAULT_STORAGE, Format, FormatOption, StorageOption
from mnist_search.cli.output import print_rows
from mnist_search.cli.read import load_studies
from mnist_search.errors import NotFound

if TYPE_CHECKING:
    from experiments import Recipe
    from mnist_search.facts import StudyFacts

COLUMNS = ("name", "kind", "parameters", "claimed_test_accuracy", "val_accuracy", "epochs", "seconds",
           "multiply_adds", "architecture")  # fmt: skip


def compare(
    study: Annotated[list[str] | None, typer.Argument(help="Studies; all of the store by default.")] = None,
    how: FormatOption = Format.TABLE,
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """Put the best of each study beside the five hand-tuned seeds.

    A seed's accuracy is its author's claim on the test set, mostly of the best epoch there.
    A study's is on its validation images, which the search chose by: neither is a test result.
    """
    from experiments import SEEDS  # Optuna's distributions

    try:
        found = load_studies(storage, study)
    except NotFound:
        if study:
            raise
        found = []  # no store yet: the seeds alone
    rows = [_seed_row(recipe) for recipe in SEEDS.values()] + [_study_row(facts) for facts in found]
    print_rows(sorted(rows, key=lambda row: row["parameters"] or 0), how, COLUMNS)


def _seed_row(recipe: Recipe) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "kind": "seed",
        "parameters": recipe.architecture.num_params(),
        "claimed_test_accuracy": recipe.claim.test_accuracy,
        "val_accuracy": None,
        "epochs": recipe.training.epochs,
        "seconds": None,
        "multiply_adds": recipe.architecture.multiply_adds(),
        "architecture": str(recipe.architecture),
        "claim": recipe.claim.wording,
    }


def _study_row(facts: StudyFacts) -> dict[str, Any]:
    best = facts.best
    architecture = facts.experiment.space.architecture(best.genes) if best else None
    return {
        "name": facts.name,
        "kind": "study",
        "parameters": best.num_params if best else None,
        "claimed_test_accuracy": None,
        "val_accuracy": best.val_accuracy if best else None,
        "epochs": best.epochs if best else None,
        "seconds": best.seconds if best else None,
        "multiply_adds": architecture.multiply_adds() if architecture else None,
        "architecture": str(architecture) if architecture else None,
        "claim": None,
    }
