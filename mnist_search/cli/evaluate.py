"""Verbs that evaluate on the test set: finalize, finals, reproduce."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Exit, echo

from mnist_search.cli import completion
from mnist_search.cli import options as opt
from mnist_search.cli.options import option
from mnist_search.cli.outcome import AFTER_FINALS, print_link, print_next_commands
from mnist_search.cli.output import print_rows
from mnist_search.cli.status import load_study
from mnist_search.errors import MnistSearchError, NotFound, masked

if TYPE_CHECKING:
    from mnist_search.evaluation.run_finals import FinalsResult

SeedsOption = Annotated[int, option("Number of seeds per network.", min=1, max=100)]

TEST_COLUMNS = ("test_accuracy_mean", "low", "high", "n_seeds")
OTHER_COLUMNS = ("worst", "test_accuracy_sd", "epochs", "seconds")
FINAL_COLUMNS = (
    *("name", "champion", "parameters", *TEST_COLUMNS, "val_accuracy_mean", "n_val_seeds", "val_accuracy"),
    *OTHER_COLUMNS,
)
REPRODUCTION_COLUMNS = (
    *("name", "parameters", "reported_test_accuracy", *TEST_COLUMNS, "best_epoch"),
    *OTHER_COLUMNS,
)


def finalize(
    study: opt.StudyArgument,
    *,
    top: Annotated[int | None, opt.stored("5", "Number of finalists.", min=1, max=100)] = None,
    seeds: Annotated[int | None, opt.stored("5", "Number of seeds on the test set.", min=1, max=100)] = None,
    evaluate_all: Annotated[
        bool, option("Evaluate every finalist on the test set, not only the champion.", "--all")
    ] = False,
    again: Annotated[
        bool,
        option("Train and evaluate the finalists again, as a new round; keep the earlier ones.", "--again"),
    ] = False,
    workers: opt.WorkerOptions,
    stores: opt.StoreOptions,
    output_format: opt.FormatOption = "table",
) -> None:
    """Select a study's champion, and evaluate it on the test set with several seeds.

    Finalists are the best trials by validation accuracy, then by validation loss. Each is trained again
    on the search's split with another seed; the better half by mean validation accuracy once more, until
    one is left. That champion is trained on all 60,000 images and evaluated on the test set once per seed,
    after the last epoch. By default these are 12 training runs. The same command continues interrupted
    finals, and with more --seeds it adds seeds.
    """
    from mnist_search.evaluation.run_finals import FinalsRequest, finalize

    request = FinalsRequest(top=top, seeds=seeds, evaluate_all=evaluate_all, again=again)
    train = partial(finalize, request=request, notify=partial(echo, err=True))
    _run(train, study, workers, stores, output_format, FINAL_COLUMNS)
    if not workers.quiet:
        if (tracking := stores.tracking()) is not None:
            print_link(study, stores.storage, tracking)
        print_next_commands(load_study(stores.storage, study), stores.storage, AFTER_FINALS)


def finals(study: opt.LatestStudyArgument = None, *, read: opt.ReadOptions) -> None:
    """Show the validation accuracies of a study's finalists, and the test accuracy of its champion."""
    from mnist_search.evaluation.statistics import final_rows
    from mnist_search.storage.database import Store

    record = load_study(read.storage, study)
    rows = final_rows(Store.open(read.storage), record)
    if rows is None:
        name = record.name
        raise NotFound(f"study {name!r} has no finals yet; run mnist-search finalize {name}")
    print_rows(rows, read.output_format, FINAL_COLUMNS)


def reproduce(
    name: Annotated[
        str, Argument(help="A baseline such as seed-001, or all.", autocompletion=completion.baseline_or_all)
    ],
    *,
    seeds: SeedsOption = 3,
    workers: opt.WorkerOptions,
    stores: opt.StoreOptions,
    output_format: opt.FormatOption = "table",
) -> None:
    """Train baselines with their authors' recipe and with the default training configuration.

    Authors report the test accuracy of the best epoch; test_accuracy_mean is that of the last epoch
    over several seeds.
    """
    from mnist_search.evaluation.run_finals import reproduce

    train = partial(reproduce, seeds=seeds)
    _run(train, name, workers, stores, output_format, REPRODUCTION_COLUMNS)


def _run(
    train: Callable[..., FinalsResult],
    study: str,
    workers: opt.WorkerOptions,
    stores: opt.StoreOptions,
    output_format: opt.Format,
    columns: tuple[str, ...],
) -> None:
    """Run finals and print them; exit with the code of a signal, or fail with failed trials."""
    from mnist_search.search.stopping import StopConditions

    stop_conditions = StopConditions(timeout=opt.parse_duration(workers.timeout, "--timeout"))
    config = opt.run_config(study, workers, stores, stop_conditions=stop_conditions)
    result = train(config, make_reporter=workers.reporter())
    print_rows(result.rows, output_format, columns)
    command = masked(shlex.join(["mnist-search", *sys.argv[1:]]))
    if result.stop is not None:
        echo(f"stopped: {result.stop.reason}; continue with: {command}", err=True)
        if result.stop.signal:
            raise Exit(128 + result.stop.signal)
    if result.failed:
        first = result.failed[0]
        name = f"{first.task.name}, seed {first.task.seed}" if first.task else ""
        raise MnistSearchError(
            f"{len(result.failed)} final trials failed (first: {name}: {first.reason}); "
            f"train them again with: {command}"
        )
