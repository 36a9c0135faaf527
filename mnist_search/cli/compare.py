"""The verb ``compare``: our studies beside the five seeds and what others published."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mnist_search.cli.options import DEFAULT_STORAGE, Format, FormatOption, StorageOption
from mnist_search.cli.output import print_rows
from mnist_search.cli.show import load_studies
from mnist_search.errors import DiskError, NotFound

if TYPE_CHECKING:
    from experiments import Recipe
    from experiments.published import Published
    from mnist_search.records import StudyRecord

COLUMNS = (
    "name", "kind", "parameters", "claimed_test_accuracy", "best_epoch", "val_accuracy", "test_accuracy_mean",
    "test_accuracy_sd", "n_seeds", "front", "epochs", "seconds", "multiply_adds",
)  # fmt: skip

EVIDENCE = ("architecture", "claim", "budget", "trials", "low", "high", "worst", "device")
"""What only JSON shows."""

Row = dict[str, Any]


def compare(
    study: Annotated[list[str] | None, typer.Argument(help="Studies; all of the store by default.")] = None,
    published: Annotated[
        bool, typer.Option("--published/--no-published", help="Show what others published.")
    ] = True,
    plot: Annotated[
        Path | None, typer.Option(help="HTML file for the plot of accuracy against parameters.")
    ] = None,
    how: FormatOption = Format.TABLE,
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """Put the best of each study beside the five hand-tuned seeds and what others published.

    Claims are of one run on the test set, mostly of the best epoch there; best epoch is what that
    rule gives in our reproductions. Retrained is a seed's network under our training. A study's
    validation accuracy is on images that the search chose by. Test means are of the last epoch
    over several seeds, after finalize or reproduce. On the front are the studies that none with as
    few parameters beats on validation.
    """
    from experiments.published import published as others

    rows = our_rows(storage, study)
    rows += [_published_row(network) for network in others() if published]
    if plot is not None:
        _write_plot(plot, rows)
    print_rows(sorted(rows, key=_parameters), how, COLUMNS)


def _write_plot(file: Path, rows: list[Row]) -> None:
    from mnist_search.report.networks import networks_page  # Optuna

    try:
        file.write_text(networks_page(rows))
    except OSError as error:
        raise DiskError(f"cannot write {file}: {error}; name another file with --plot") from error


def our_rows(storage: str, studies: list[str] | None = None) -> list[Row]:
    """The seeds and these studies, or all of the store, the smallest network first.

    Raises:
        NotFound: no store, or no such study, though studies were named.
    """
    from experiments import BASELINES  # Optuna's distributions

    try:
        found = load_studies(storage, studies)
        reproduced = _reproduced(storage)
    except NotFound:
        if studies:
            raise
        found, reproduced = [], {}  # no store yet: the seeds alone
    studies_rows = [_study_row(record, storage) for record in found]
    _mark_front(studies_rows)
    rows = [row for recipe in BASELINES.values() for row in _seed_rows(recipe, reproduced)]
    return sorted(rows + studies_rows, key=_parameters)


def _mark_front(rows: list[Row]) -> None:
    if not rows:
        return
    from mnist_search.report.networks import studies_front  # Optuna

    best = studies_front(rows, "val_accuracy")
    for row in rows:
        row["front"] = row in best


def _parameters(row: Mapping[str, Any]) -> int:
    return int(row["parameters"] or 0)


def _reproduced(storage: str) -> Mapping[str, Row]:
    """What the seeds came to in our hands, by name."""
    from mnist_search.evaluation.finals import REPRODUCTION, summaries  # Optuna
    from mnist_search.storage.database import Store
    from mnist_search.storage.final_queue import FinalQueue, queue_names

    store = Store.open(storage)
    if REPRODUCTION not in queue_names(store, REPRODUCTION):
        return {}
    return {summary.name: asdict(summary) for summary in summaries(FinalQueue(store, REPRODUCTION))}


def _seed_rows(recipe: Recipe, reproduced: Mapping[str, Row]) -> Iterator[Row]:
    """A seed, and its network under our training if that was measured."""
    from mnist_search.evaluation.finals import retrained_name  # Optuna

    network = {
        "parameters": recipe.architecture.num_params(),
        "multiply_adds": recipe.architecture.multiply_adds(),
        "architecture": str(recipe.architecture),
    }
    authors = reproduced.get(recipe.name, {})
    yield _bare() | {
        "name": recipe.name,
        "kind": "seed",
        **network,
        **_spread(authors),
        "claimed_test_accuracy": recipe.reported.test_accuracy,
        "best_epoch": authors.get("best_epoch"),
        "epochs": recipe.training.epochs,
        "claim": recipe.reported.wording,
    }
    name = retrained_name(recipe.name)
    if ours := reproduced.get(name):
        yield _bare() | {
            "name": name,
            "kind": "retrained",
            **network,
            **_spread(ours),
            "epochs": ours["epochs"],
        }


def _study_row(record: StudyRecord, storage: str) -> Row:
    from mnist_search.evaluation.champion import final_summary  # Optuna
    from mnist_search.storage.database import Store

    bare = _bare() | {"name": record.name, "kind": "study", "budget": record.config.budget}
    final = final_summary(Store.open(storage), record)
    best = final.trial if final else record.best
    if best is None:
        return bare
    architecture = record.config.space.architecture(best.params)
    test = asdict(final.summary) if final else {}
    return bare | {
        "parameters": best.num_params,
        "val_accuracy": best.val_accuracy,
        **_spread(test),
        "trials": len(record.done),
        "epochs": test.get("epochs", best.epochs),
        "seconds": test.get("seconds", best.seconds),
        "multiply_adds": architecture.multiply_adds(),
        "architecture": str(architecture),
    }


def _spread(summary: Mapping[str, Any]) -> Row:
    """What several trainings came to on the test set."""
    return {
        "test_accuracy_mean": summary.get("mean"),
        "test_accuracy_sd": summary.get("sd"),
        "n_seeds": summary.get("n_seeds"),
        "low": summary.get("low"),
        "high": summary.get("high"),
        "worst": summary.get("worst"),
        "seconds": summary.get("seconds"),
        "device": summary.get("device"),
    }


def _published_row(network: Published) -> Row:
    return _bare() | {
        "name": network.name,
        "kind": "published",
        "parameters": network.parameters,
        "claimed_test_accuracy": network.test_accuracy,
        "epochs": network.epochs,
        "claim": f"{network.rule}; {network.source}",
    }


def _bare() -> Row:
    return dict.fromkeys((*COLUMNS, *EVIDENCE))
