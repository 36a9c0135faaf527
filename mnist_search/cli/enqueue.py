"""The verb ``enqueue``: a network that is to be trained before any is sampled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from mnist_search.cli.options import DEFAULT_STORAGE, StorageOption, StudyArgument
from mnist_search.cli.read import load_studies
from mnist_search.errors import NotFound, UsageError


def enqueue(
    study: StudyArgument,
    recipe: Annotated[str | None, typer.Option(help="A hand-tuned seed, such as seed-001.")] = None,
    source: Annotated[
        str | None, typer.Option("--from", help="Study that holds the trial; this one by default.")
    ] = None,
    trial: Annotated[int | None, typer.Option(min=0, help="Number of a stored trial.")] = None,
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """Have a seed, or a trial of any study, trained next, as near as this study's space comes to it."""
    if (recipe is None) == (trial is None):
        raise UsageError("enqueue takes either --recipe NAME or --trial NUMBER, with --from STUDY if need be")
    from mnist_search.study.ledger import Ledger  # Optuna
    from mnist_search.study.lessons import nearest
    from mnist_search.study.store import Store

    genes = _genes_of_recipe(recipe) if recipe else _genes_of_trial(storage, source or study, trial or 0)
    ledger = Ledger.open(Store.open(storage, write=True), study)
    near = nearest(ledger.experiment, genes)
    new = ledger.enqueue(near)
    network = ledger.experiment.space.architecture(near)
    what = "will be trained next" if new else "is there already"
    typer.echo(f"{network} of {network.num_params():,} parameters {what} in {study}")
    facts = ledger.facts()
    if new and len(facts.done) >= facts.trials_target:
        typer.echo(f"the study is full; make room with: mnist-search resume {study} --trials +1", err=True)


def _genes_of_recipe(name: str) -> Mapping[str, Any]:
    from experiments import SEEDS  # Optuna's distributions

    near = {seed: recipe.genes for seed, recipe in SEEDS.items() if recipe.genes}
    if name not in near:
        raise NotFound(f"no recipe {name!r} that the space comes near to; there are {', '.join(near)}")
    return near[name]


def _genes_of_trial(storage: str, study: str, number: int) -> Mapping[str, Any]:
    facts = load_studies(storage, [study])[0]
    found = facts.trial(number)
    if found is None or not found.genes:
        raise NotFound(
            f"study {study!r} has no trial {number} with a network; see mnist-search trials {study}"
        )
    return found.genes
