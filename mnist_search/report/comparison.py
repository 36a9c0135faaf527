"""Studies, baselines and published networks side by side, as rows and as the leaderboard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias, TypeVar

from experiments import BASELINES, Recipe
from experiments.published import published
from mnist_search.evaluation.champion import final_evaluation
from mnist_search.evaluation.finals import RETRAINED_SUFFIX, baseline_finals
from mnist_search.evaluation.statistics import seed_statistics
from mnist_search.records import StudyRecord, percent
from mnist_search.storage.database import Store
from search_space import Architecture

T = TypeVar("T")

Row: TypeAlias = dict[str, Any]
"""One network; every row has the keys of COLUMNS and DETAILS. Accuracies are fractions."""

COLUMNS = (
    "name", "kind", "parameters", "reported_test_accuracy", "best_epoch", "val_accuracy",
    "test_accuracy_mean", "test_accuracy_sd", "n_seeds", "front", "epochs", "seconds", "multiply_adds",
)  # fmt: skip
DETAILS = ("architecture", "reported", "budget", "trials", "low", "high", "worst", "device")
"""Keys that the table and the CSV omit."""

LEADERBOARD_HEADER = "| network | parameters | accuracy | seeds | evidence |\n|---|--:|--:|--:|---|"


def pareto_front(items: Sequence[T], size: Callable[[T], float], score: Callable[[T], float]) -> list[T]:
    """Items that are not dominated, by size: no smaller or equal item scores as high.

    Of equal items the first one is on the front.
    """
    front: list[T] = []
    for item in sorted(items, key=lambda item: (size(item), -score(item))):
        if not front or score(item) > score(front[-1]):
            front.append(item)
    return front


def studies_front(rows: Sequence[Row], measure: str) -> list[Row]:
    """The Pareto front of the studies by parameters and ``measure``."""
    studies = [row for row in rows if row["kind"] == "study" and row[measure] is not None]
    return pareto_front(studies, lambda row: row["parameters"], lambda row: row[measure])


def study_rows(storage: str, records: Sequence[StudyRecord]) -> list[Row]:
    """A row per baseline and per study; ``front`` marks the studies on the validation front."""
    store = Store.open(storage)
    rows = [_study_row(store, record) for record in records]
    front = studies_front(rows, "val_accuracy")
    rows = [row | {"front": row in front} for row in rows]
    reproduced = seed_statistics(baseline_finals(store))
    return baseline_rows({statistics.name: asdict(statistics) for statistics in reproduced}) + rows


def baseline_rows(reproduced: Mapping[str, Row] | None = None) -> list[Row]:
    """A row per baseline, and one per baseline that was retrained with the default training configuration."""
    return [row for recipe in BASELINES.values() for row in _rows_of_baseline(recipe, reproduced or {})]


def published_rows() -> list[Row]:
    """A row per network that others published."""
    return [
        _row(
            name=network.name,
            kind="published",
            parameters=network.parameters,
            reported_test_accuracy=network.test_accuracy,
            epochs=network.epochs,
            reported=f"{network.rule}; {network.source}",
        )
        for network in published()
    ]


def _rows_of_baseline(recipe: Recipe, reproduced: Mapping[str, Row]) -> Iterator[Row]:
    network = _network(recipe.architecture)
    author = reproduced.get(recipe.name, {})
    yield _row(
        name=recipe.name,
        kind="baseline",
        **network,
        **_test_results(author),
        reported_test_accuracy=recipe.reported.test_accuracy,
        best_epoch=author.get("best_epoch"),
        epochs=recipe.training.epochs,
        reported=recipe.reported.wording,
    )
    if retrained := reproduced.get(recipe.name + RETRAINED_SUFFIX):
        results = _test_results(retrained)
        name = f"{recipe.name}, default training"
        yield _row(name=name, kind="retrained", **network, **results, epochs=retrained["epochs"])


def _study_row(store: Store, record: StudyRecord) -> Row:
    final = final_evaluation(store, record)
    best = final.trial if final else record.best
    if best is None:
        return _row(name=record.name, kind="study", budget=record.config.budget)
    test = asdict(final.statistics) if final else {"epochs": best.epochs, "seconds": best.seconds}
    return _row(
        name=record.name,
        kind="study",
        budget=record.config.budget,
        val_accuracy=best.val_accuracy,
        trials=len(record.done),
        epochs=test["epochs"],
        **_test_results(test),
        **_network(record.config.space.architecture(best.params)) | {"parameters": best.num_params},
    )


def _network(architecture: Architecture) -> Row:
    return {
        "parameters": architecture.num_params(),
        "multiply_adds": architecture.multiply_adds(),
        "architecture": str(architecture),
    }


def _test_results(statistics: Mapping[str, Any]) -> Row:
    keys = ("test_accuracy_mean", "test_accuracy_sd", "n_seeds", "low", "high", "worst", "seconds", "device")
    return {key: statistics.get(key) for key in keys}


def _row(**values: Any) -> Row:
    return dict.fromkeys((*COLUMNS, *DETAILS)) | values


def leaderboard(rows: Sequence[Row]) -> str:
    """A Markdown table, the most accurate first: test means, then validation, then reported results."""
    return "\n".join([LEADERBOARD_HEADER, *map(_leaderboard_line, sorted(rows, key=_rank))])


def _rank(row: Row) -> tuple[int, float]:
    for rank, name in enumerate(("test_accuracy_mean", "val_accuracy", "reported_test_accuracy")):
        if row[name] is not None:
            return rank, -row[name]
    return 3, 0.0


def _leaderboard_line(row: Row) -> str:
    accuracy, evidence = _evidence(row)
    return f"| {row['name']} | {row['parameters'] or 0:,} | {accuracy} | {row['n_seeds'] or 1} | {evidence} |"


def _evidence(row: Row) -> tuple[str, str]:
    """An accuracy, and how it was measured."""
    if row["test_accuracy_mean"] is not None:
        interval = "" if row["low"] is None else f" ({100 * row['low']:.2f} to {100 * row['high']:.2f})"
        evidence = (
            f"test, last of {row['epochs']} epochs, 95 % interval of the mean; worst {percent(row['worst'])}, "
            f"{row['seconds']:.0f} s per run; {row['device']}"
        )
        if row["kind"] == "baseline":
            reported = percent(row["reported_test_accuracy"])
            evidence += f"; best epoch {percent(row['best_epoch'])}, reported {reported}"
        return f"{percent(row['test_accuracy_mean'], 3)}{interval}", evidence
    if row["kind"] == "study":
        evidence = f"validation, best of {row['trials']} trials, {row['epochs']} epochs"
        return percent(row["val_accuracy"]), evidence
    return percent(row["reported_test_accuracy"]), f"reported: {row['reported']}"
