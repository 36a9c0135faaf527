"""Compare whole studies: the former default, screening, and screening without templates.

Every study has 50 trials of 15 epochs on 20,000 images and is run as a user runs it, on all cores. The
network that it finds, and its best template, are trained again with five other seeds and evaluated on a
second validation set, which no study has seen. ``search`` runs one study after the other and continues
interrupted ones; ``train`` trains the networks again, one process per core.

    python -m mnist_search.research.compare_studies search FILE.jsonl --variants screening --seeds 0
    python -m mnist_search.research.compare_studies train FILE.jsonl --part 0 --parts 2
    python -m mnist_search.research.compare_studies report FILE.jsonl
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import numpy as np
import typer
from scipy.special import stdtrit

from experiments import StudyConfig
from mnist_search.api import run_study
from mnist_search.data import mnist
from mnist_search.data.dataset import Digits, Split, load_split
from mnist_search.records import StudyRecord, TrialRecord
from mnist_search.research import jsonl
from mnist_search.research.compare_searches import final_accuracy
from mnist_search.research.worker_time import share_outside_epochs
from mnist_search.search.samplers import derive_seed
from mnist_search.search.warm_start import known_templates
from mnist_search.training.device import resolve_device

BUDGET, TRIALS = 8000, 50
TRAIN_IMAGES, VAL_IMAGES = 20_000, 10_000
SCORE_SEEDS = (1, 2, 3, 4, 5)

VARIANTS: Mapping[str, tuple[str, str]] = {
    "asha": ("asha", "templates"),
    "screening": ("screening", "templates"),
    "screening, no templates": ("screening", "none"),
}
"""Pruner and warm start by name; the first is the default of commit 08eb057."""


def search(
    out: Path,
    variants: Annotated[str, typer.Option(help="Names, separated by semicolons.")] = ";".join(VARIANTS),
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1,2",
    data_dir: jsonl.DataOption = None,
) -> None:
    """Run the studies that the file has no line of; the stores lie beside it."""
    for seed in map(int, seeds.split(",")):
        for name in variants.split(";"):
            key = {"kind": "study", "variant": name, "seed": seed}
            if not any(key.items() <= line.items() for line in jsonl.read(out)):
                jsonl.append(out, key | _search(out, name, seed, data_dir))


def _search(out: Path, name: str, seed: int, data_dir: Path | None) -> dict[str, Any]:
    pruner, warm_start = VARIANTS[name]
    config = StudyConfig.for_budget(
        BUDGET, pruner=pruner, seed=seed, train_images=TRAIN_IMAGES, val_images=VAL_IMAGES
    )
    store = out.with_name(f"{out.stem}-{name.replace(', ', '-').replace(' ', '-')}-{seed}.db")
    study = run_study(
        config,
        TRIALS,
        storage=f"sqlite:///{store.absolute()}",
        warm_start=warm_start,  # type: ignore[arg-type]
        mlflow=False,
        data_dir=data_dir,
    )
    record = study.record
    n_templates = len(known_templates(config)) if warm_start == "templates" else 0
    template = next((trial for trial in record.ranked if trial.number < n_templates), None)
    return {
        "trials": [_trial(record, trial) for trial in record.trials],
        "outside_epochs": share_outside_epochs(record.done),
        "found": dict(study.best.params),
        "found_trial": study.best.number,
        "template": template and dict(template.params),
        "device": study.best.device,
    }


def _trial(record: StudyRecord, trial: TrialRecord) -> dict[str, Any]:
    row = record.row(trial)
    names = ("number", "state", "num_params", "val_accuracy", "epochs", "seconds", "rung", "architecture")
    return {name: row[name] for name in names} | {"curve": [epoch.val_accuracy for epoch in trial.curve]}


def train(
    out: Path,
    part: jsonl.PartOption = 0,
    parts: jsonl.PartsOption = 1,
    data_dir: jsonl.DataOption = None,
    device: jsonl.DeviceOption = "auto",
) -> None:
    """Train the networks of the studies again; writes a JSON line per training run."""
    jsonl.run_part(out, _tasks(jsonl.read(out), data_dir, device), part, parts)


def _tasks(lines: Sequence[Mapping[str, Any]], data_dir: Path | None, device: str) -> Iterator[jsonl.Task]:
    rest = 60_000 - VAL_IMAGES
    data = load_split(mnist.resolve_data_dir(data_dir), rest, VAL_IMAGES, 0, resolve_device(device))
    split = Split(data.train[:TRAIN_IMAGES], second_validation(data.train))
    for line in lines:
        networks = {"found": line.get("found"), "template": line.get("template")}
        for network, params in networks.items():
            if params is None:
                continue
            for seed in SCORE_SEEDS:
                key = {
                    "kind": "again",
                    "variant": line["variant"],
                    "seed": line["seed"],
                    "network": network,
                    "score_seed": seed,
                }
                yield key, partial(_train, params, seed, split)


def second_validation(digits: Digits) -> Digits:
    """The last images of the split, which are in no study's training or validation set."""
    return digits[len(digits) - VAL_IMAGES :]


def _train(params: Mapping[str, Any], seed: int, data: Split) -> dict[str, Any]:
    config = StudyConfig.for_budget(BUDGET).space.decode(params)
    return {"accuracy": final_accuracy(config, data, derive_seed(seed, seed, 2))}


def report(out: Path) -> None:
    """Print the studies, and the differences between variants with their intervals over studies."""
    lines = jsonl.read(out)
    studies = [line for line in lines if line["kind"] == "study"]
    scores = {(s["variant"], s["seed"]): _scores(lines, s["variant"], s["seed"]) for s in studies}
    typer.echo(
        "| variant | seed | epochs | completed | outside of epochs | found by trial | its validation | "
        "found, again: mean of 5 | best template, again |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    )
    for line in studies:
        found_score, template_score = scores[line["variant"], line["seed"]]
        trials = line["trials"]
        accuracy = trials[line["found_trial"]]["val_accuracy"]
        typer.echo(
            f"| {line['variant']} | {line['seed']} | {sum(trial['epochs'] for trial in trials)} | "
            f"{sum(trial['state'] == 'COMPLETE' for trial in trials)} | {line['outside_epochs']:.1%} | "
            f"{line['found_trial']} | {100 * accuracy:.2f} | {_percent(found_score)} | {_percent(template_score)} |"
        )
    typer.echo("\n| difference of the networks found, trained again | studies | mean | 95 % interval |")
    typer.echo("|---|--:|--:|--:|")
    found = {key: score[0] for key, score in scores.items()}
    template = {("best template", seed): score[1] for (name, seed), score in scores.items() if name != "asha"}
    for name, reference in (
        ("screening", "asha"),
        ("screening, no templates", "screening"),
        ("screening", "best template"),
    ):
        typer.echo(f"| {name} - {reference} | {_difference(found | template, name, reference)} |")


def _scores(lines: Sequence[Mapping[str, Any]], variant: str, seed: int) -> tuple[float | None, float | None]:
    """Mean accuracy in % of the network found and of the best template; None unless all runs are there."""
    means = []
    for network in ("found", "template"):
        key = {"kind": "again", "variant": variant, "seed": seed, "network": network}
        values = [100 * (line["accuracy"] or 0.0) for line in lines if key.items() <= line.items()]
        means.append(mean(values) if len(values) == len(SCORE_SEEDS) else None)
    return means[0], means[1]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _difference(scores: Mapping[tuple[str, int], float | None], name: str, reference: str) -> str:
    """Number of pairs of one seed, mean difference and interval by Student's t."""
    seeds = sorted({seed for _, seed in scores})
    pairs = [(scores.get((name, seed)), scores.get((reference, seed))) for seed in seeds]
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    n = len(differences)
    if n < 2:
        return f"{n} | {' '.join(f'{each:+.3f}' for each in differences)} | "
    margin = float(stdtrit(n - 1, 0.975)) * stdev(differences) / np.sqrt(n)
    center = mean(differences)
    return f"{n} | {center:+.3f} | {center - margin:+.3f} to {center + margin:+.3f}"


if __name__ == "__main__":
    jsonl.run_commands(search, train, report)
