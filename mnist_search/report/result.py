"""The result of a study: its best network, how the accuracy was measured, and the command of the search."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from scipy.stats import binomtest

from experiments import StudyConfig
from mnist_search.evaluation.champion import FinalEvaluation, final_evaluation
from mnist_search.records import StudyRecord, TrialRecord, percent
from mnist_search.search.samplers import SAMPLERS
from mnist_search.storage.database import Store
from search_space import TrialConfig
from search_space.ranges import to_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The best network of a study.

    Attributes:
        measure: ``test accuracy`` after finals, else ``validation accuracy``.
        low, high: 95 % interval of the accuracy; None for the test accuracy of a single seed.
        evidence: how the accuracy was measured, in sentences.
        completed: end of the training that gave the accuracy.
        commands: repeat the search, and the final evaluation if there was one.
    """

    trial: TrialRecord
    config: TrialConfig
    measure: str
    accuracy: float
    low: float | None
    high: float | None
    evidence: str
    completed: datetime | None
    device: str | None
    version: str | None
    commit: str | None
    commands: list[str]


def study_result(
    store: Store, record: StudyRecord, finals: Sequence[dict[str, Any]], *, has_templates: bool
) -> Result:
    """The result of a study with a complete trial.

    ``finals`` are the rows of its last finals; ``has_templates`` says whether its first trials were enqueued.
    """
    final = final_evaluation(store, record)
    trial = final.trial if final else record.best
    assert trial is not None
    trained = final.final if final else trial
    measure, accuracy, low, high, evidence = _test(final) if final else _validation(record, trial)
    commands = [run_command(record, has_templates=has_templates)]
    if finals:
        commands.append(finalize_command(record, finals))
    return Result(
        trial=trial,
        config=record.config.space.decode(trial.params),
        measure=measure,
        accuracy=accuracy,
        low=low,
        high=high,
        evidence=evidence,
        completed=trained.completed,
        device=trained.device,
        version=trained.version,
        commit=trained.software.get("commit"),
        commands=commands,
    )


def _test(final: FinalEvaluation) -> tuple[str, float, float | None, float | None, str]:
    statistics = final.statistics
    seeds = "one seed" if statistics.n_seeds == 1 else f"mean of {statistics.n_seeds} seeds"
    evidence = (
        f"Accuracy on the 10,000 test images, {seeds}, after the last of {statistics.epochs} epochs on all "
        "60,000 training images. The test set was not used for selection: the network is the finalist with the "
        "best mean validation accuracy."
    )
    if statistics.low is not None:
        evidence += (
            " The interval is the 95 % confidence interval of the mean by Student's t; the worst seed has "
            f"{percent(statistics.worst)}."
        )
    return "test accuracy", statistics.test_accuracy_mean or 0.0, statistics.low, statistics.high, evidence


def _validation(record: StudyRecord, trial: TrialRecord) -> tuple[str, float, float, float, str]:
    images, accuracy = record.config.val_images, trial.val_accuracy or 0.0
    low, high = binomtest(round(accuracy * images), images).proportion_ci(method="wilson")
    evidence = (
        f"Accuracy of one training run on {images:,} validation images after the last of {trial.epochs} epochs "
        f"on {record.config.train_images:,} training images. It is the best of {len(record.ranked)} complete "
        "trials, which biases it upwards. The interval is the 95 % Wilson interval of the validation images and "
        f"does not include that bias. The test set was not used; {shlex.join(['mnist-search', 'finalize', record.name])} "
        "trains the best networks again and evaluates them on it."
    )
    return "validation accuracy", accuracy, low, high, evidence


def run_command(record: StudyRecord, *, has_templates: bool) -> str:
    """The command of the search, with the options that differ from the defaults."""
    config = record.config
    words = ["mnist-search", "run", "--budget", str(config.budget), "--trials", str(record.n_trials)]
    if record.name != f"budget-{config.budget}":
        words += ["--study", record.name]
    try:
        defaults = _options(StudyConfig.for_budget(config.budget))
    except ValueError:  # the default bounds have no network within the budget
        defaults = {}
    for name, value in _options(config).items():
        if value != defaults.get(name):
            words += [f"--{name}", value]
    for name in config.space.params:
        words += ["--param", f"{name}={to_text(config.space.distributions[name])}"]
    words += [] if config.fill else ["--no-fill"]
    words += [] if has_templates else ["--warm-start", "none"]
    return shlex.join(words)


def finalize_command(record: StudyRecord, finals: Sequence[dict[str, Any]]) -> str:
    """The command of the final evaluation, with the options that differ from the defaults."""
    words = ["mnist-search", "finalize", record.name]
    seeds = max(row["n_seeds"] + row["failed"] for row in finals)
    for name, number in (("--top", len(finals)), ("--seeds", seeds)):
        words += [name, str(number)] if number not in {0, 5} else []  # 0: not yet evaluated
    words += ["--all"] if sum(row["n_seeds"] > 0 for row in finals) > 1 else []
    return shlex.join(words)


def _options(config: StudyConfig) -> dict[str, str]:
    """Values of the options of ``run`` by name; without a sampler object, which no option names."""
    space = config.space
    values = {
        "epochs": space.epochs, "depth": "{}:{}".format(*space.depth), "width": "{}:{}".format(*space.width),
        "seed": config.seed, "pruner": config.pruner,
        "train-images": config.train_images, "val-images": config.val_images,
    }  # fmt: skip
    if config.sampler in SAMPLERS:
        values["sampler"] = config.sampler
    return {name: str(value) for name, value in values.items()}
