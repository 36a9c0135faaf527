"""The verb ``enqueue``: a network that is to be trained before any is sampled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from mnist_search.cli.options import DEFAULT_STORAGE, StorageOption, StudyArgument
from mnist_search.cli.show import load_studies
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
    from mnist_search.search.study import SearchStudy  # Optuna
    from mnist_search.search.warm_start import project_to_space
    from mnist_search.storage.database import Store

    params = _params_of_recipe(recipe) if recipe else _params_of_trial(storage, source or study, trial or 0)
    search_study = SearchStudy.open(Store.open(storage, write=True), study)
    near = project_to_space(search_study.config, params)
    new = search_study.enqueue(near)
    network = search_study.config.space.architecture(near)
    what = "will be trained next" if new else "is there already"
    typer.echo(f"{network} of {network.num_params():,} parameters {what} in {study}")
    record = search_study.record()
    if new and len(record.done) >= record.n_trials:
        typer.echo(f"the study is full; make room with: mnist-search resume {study} --trials +1", err=True)


def _params_of_recipe(name: str) -> Mapping[str, Any]:
    from experiments import BASELINES  # Optuna's distributions

    near = {seed: recipe.params for seed, recipe in BASELINES.items() if recipe.params}
    if name not in near:
        raise NotFound(f"no recipe {name!r} that the space comes near to; there are {', '.join(near)}")
    return near[name]


def _params_of_trial(storage: str, study: str, number: int) -> Mapping[str, Any]:
    record = load_studies(storage, [study])[0]
    found = record.trial(number)
    if found is None or not found.params:
        raise NotFound(
            f"study {study!r} has no trial {number} with a network; see mnist-search trials {study}"
        )
    return found.params
