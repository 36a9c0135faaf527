"""Studies, baselines and published networks side by side, as rows and as the leaderboard."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from typing import Any, TypeAlias

from experiments import BASELINES
from mnist_search.evaluation.champion import final_evaluation
from mnist_search.evaluation.finals import RETRAINED_SUFFIX, baseline_finals
from mnist_search.evaluation.statistics import SeedStatistics, seed_statistics
from mnist_search.records import StudyRecord, percent
from mnist_search.storage.database import Store
from search_space import Architecture

Row: TypeAlias = dict[str, Any]
"""One network; every row has the keys of COLUMNS and DETAILS. Accuracies are fractions."""

COLUMNS = (
    "name", "kind", "parameters", "reported_test_accuracy", "best_epoch", "val_accuracy",
    "test_accuracy_mean", "test_accuracy_sd", "n_seeds", "front", "epochs", "seconds", "multiply_adds",
)  # fmt: skip
DETAILS = ("architecture", "reported", "budget", "trials", "low", "high", "worst", "device")
"""Keys that the table and the CSV omit."""


def pareto_front(rows: Sequence[Row], measure: str) -> list[Row]:
    """The Pareto front by parameters and ``measure``, smallest first; the first of equal rows is on it."""
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: (row["parameters"], -row[measure])):
        if not front or row[measure] > front[-1][measure]:
            front.append(row)
    return front


def studies_front(rows: Sequence[Row], measure: str) -> list[Row]:
    """The Pareto front of the studies by parameters and ``measure``."""
    return pareto_front([r for r in rows if r["kind"] == "study" and r[measure] is not None], measure)


def study_rows(storage: str, records: Sequence[StudyRecord]) -> list[Row]:
    """A row per baseline and per study; ``front`` marks the studies on the validation front."""
    store = Store.open(storage)
    rows = [_study_row(store, record) for record in records]
    front = studies_front(rows, "val_accuracy")
    finals = baseline_finals(store)
    reproduced = seed_statistics(finals.current if finals else [])
    return baseline_rows(reproduced) + [row | {"front": row in front} for row in rows]


def baseline_rows(reproduced: Sequence[SeedStatistics] = ()) -> list[Row]:
    """A row per baseline, and one per baseline that was retrained with the default training configuration."""
    results = {statistics.name: asdict(statistics) for statistics in reproduced}
    rows = []
    for name, recipe in BASELINES.items():
        author = results.get(name, {})
        row = _row(name, "baseline", recipe.architecture, author)
        row |= {"best_epoch": author.get("best_epoch"), "epochs": recipe.training.epochs}
        reported = recipe.reported
        rows.append(row | {"reported": reported.wording, "reported_test_accuracy": reported.test_accuracy})
        if retrained := results.get(name + RETRAINED_SUFFIX):
            row = _row(f"{name}, default training", "retrained", recipe.architecture, retrained)
            rows.append(row | {"epochs": retrained["epochs"]})
    return rows


def published_rows() -> list[Row]:
    """A row per network that others published; none of the accuracies is a mean over several seeds."""
    rows = []
    for network in json.loads(files("experiments").joinpath("published.json").read_text("utf-8")):
        row = _row(network["name"], "published") | {key: network[key] for key in ("parameters", "epochs")}
        reported = f"{network['rule']}; {network['source']}"
        rows.append(row | {"reported": reported, "reported_test_accuracy": network["test_accuracy"]})
    return rows


def _study_row(store: Store, record: StudyRecord) -> Row:
    final = final_evaluation(store, record)
    best = final.trial if final else record.best
    if best is None:
        return _row(record.name, "study") | {"budget": record.config.budget}
    test = asdict(final.statistics) if final else {"epochs": best.epochs, "seconds": best.seconds}
    return _row(record.name, "study", record.config.space.architecture(best.params), test) | {
        "parameters": best.num_params,
        "budget": record.config.budget,
        "val_accuracy": best.val_accuracy,
        "trials": len(record.done),
        "epochs": test["epochs"],
    }


def _row(name: str, kind: str, network: Architecture | None = None, results: Row | None = None) -> Row:
    row: Row = dict.fromkeys((*COLUMNS, *DETAILS)) | {"name": name, "kind": kind}
    if network:
        row |= {"parameters": network.num_params(), "multiply_adds": network.multiply_adds()}
        row["architecture"] = str(network)
    keys = ("test_accuracy_mean", "test_accuracy_sd", "n_seeds", "low", "high", "worst", "seconds", "device")
    return row | {key: (results or {}).get(key) for key in keys}


def leaderboard(rows: Sequence[Row]) -> str:
    """A Markdown table, the most accurate first: by test mean, else validation, else reported accuracy."""
    lines = ["| network | parameters | accuracy | seeds | evidence |", "|---|--:|--:|--:|---|"]
    for row in sorted((row for row in rows if _accuracy(row) is not None), key=_rank):
        accuracy, evidence = _evidence(row)
        network = f"{row['name']} | {row['parameters'] or 0:,}"
        lines.append(f"| {network} | {accuracy} | {row['n_seeds'] or 1} | {evidence} |")
    return "\n".join(lines)


def _accuracy(row: Row) -> float | None:
    """The accuracy with the best evidence; None for a study without a complete trial."""
    measures = ("test_accuracy_mean", "val_accuracy", "reported_test_accuracy")
    return next((row[name] for name in measures if row[name] is not None), None)


def _rank(row: Row) -> tuple[float, int]:
    return -round(_accuracy(row) or 0.0, 5), row["parameters"] or 0  # as shown


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
