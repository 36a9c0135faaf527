"""Verbs that search or show the search space: run, resume, enqueue, space."""

from __future__ import annotations

import re
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from typer import Exit, echo

from mnist_search.cli import completion
from mnist_search.cli import options as opt
from mnist_search.cli.options import option, stored
from mnist_search.cli.outcome import (
    AFTER_FINALS,
    NEXT_VERBS,
    has_champion,
    print_link,
    print_next_commands,
    print_result,
)
from mnist_search.cli.output import print_fields
from mnist_search.errors import UsageError, first_line, masked

if TYPE_CHECKING:
    from experiments import StudyConfig
    from mnist_search.execution.config import RunConfig

WarmStart: TypeAlias = Literal["templates", "baselines", "none"]

BUDGET_HELP = "Maximum number of parameters; several budgets are searched in ascending order."
WARM_START_HELP = (
    "Trials to enqueue first: in a new study, known templates scaled to the budget, with the default "
    "training; the hand-tuned baselines within the budget, projected to the space; or none."
)


def run(
    *,
    budget: Annotated[str, option(BUDGET_HELP, "--budget", "-b", metavar="N[,N...]")],
    trials: Annotated[
        int | None, stored("50", "Total number of trials to train.", "--trials", "-n", min=1, max=100_000)
    ] = None,
    study: Annotated[str | None, option("Name of the study.", show_default="budget-BUDGET")] = None,
    epochs: Annotated[int | None, stored("15", "Epochs of a trial.", min=1, max=10_000)] = None,
    seed: Annotated[int | None, stored("0", "Seed of proposals, weights and batches.", min=0)] = None,
    sampler: Annotated[
        str | None, stored("tpe", "Sampler, which proposes the trials.", choices=completion.SAMPLERS)
    ] = None,
    pruner: Annotated[
        str | None, stored("screening", "Pruner, which stops trials early.", choices=completion.PRUNERS)
    ] = None,
    fill: Annotated[bool | None, stored("fill", "Scale all widths to fill the budget.")] = None,
    depth: opt.DepthOption = None,
    width: opt.WidthOption = None,
    param: opt.ParamOption = None,
    space: opt.SpaceOption = None,
    warm_start: Annotated[WarmStart, option(WARM_START_HELP)] = "templates",
    train_images: Annotated[int | None, stored("50000", "Number of training images.", min=1000)] = None,
    val_images: Annotated[int | None, stored("10000", "Number of validation images.", min=100)] = None,
    workers: opt.SearchOptions,
    stores: opt.StoreOptions,
    dry_run: Annotated[
        bool, option("Print the configuration and the first proposals, and exit.", "--dry-run")
    ] = False,
) -> None:
    """Search for the most accurate network within a parameter budget.

    The same command continues a study that was stopped or killed, until the study has
    --trials trials. Options of its configuration that are not given take the stored values.
    """
    from mnist_search.search.study import resolve_config

    options: dict[str, Any] = {
        "depth": opt.parse_bounds(depth, "--depth"), "width": opt.parse_bounds(width, "--width"), "epochs": epochs,
        "seed": seed, "sampler": sampler, "pruner": pruner, "fill": fill,
        "train_images": train_images, "val_images": val_images,
    }  # fmt: skip
    try:
        options["params"] = opt.parse_params(param, space)
        configs = {
            name: resolve_config(stores.storage, name, number, options)
            for name, number in _parse_budgets(budget, study).items()
        }
    except ValueError as error:
        raise UsageError(f"{error}; see mnist-search run --help") from error
    if dry_run:
        for name, config in configs.items():
            _print_dry_run(config, name, stores.storage, trials, warm_start)
        return
    execute = partial(_execute, workers=workers, stores=stores, n_trials=trials, warm_start=warm_start)
    smaller = None
    for name, config in configs.items():
        execute(name, config=config, smaller_study=smaller)
        smaller = name


def _parse_budgets(text: str, study: str | None) -> dict[str, int]:
    """Budgets by the name of their study, the smallest first."""
    from mnist_search.search.study import study_name

    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise UsageError(f"--budget takes a number of parameters, or several as 1000,2000, not {text!r}")
    budgets = sorted({int(number) for number in text.split(",")})
    if study is not None and len(budgets) == 1:
        return {study_name(study): budgets[0]}
    return {study_name(f"{study or 'budget'}-{budget}"): budget for budget in budgets}


def resume(
    study: opt.StudyArgument,
    *,
    trials: Annotated[
        str | None, option("Total number of trials, or +N for N more.", "--trials", "-n")
    ] = None,
    workers: opt.SearchOptions,
    stores: opt.StoreOptions,
) -> None:
    """Continue a study by its name, under its stored configuration."""
    if trials and not re.fullmatch(r"\+?[1-9]\d{0,5}", trials):
        raise UsageError(f"--trials takes a number such as 60, or +10 for ten more, not {trials!r}")
    argument = "extra_trials" if trials and trials.startswith("+") else "n_trials"
    _execute(study, workers, stores, **{argument: int(trials) if trials else None})


def enqueue(
    study: opt.StudyArgument,
    baseline: Annotated[
        str | None, option("Name of a baseline, such as seed-001.", autocompletion=completion.baseline)
    ] = None,
    source: Annotated[
        str | None,
        option("Study of the stored trial.", "--from", show_default="STUDY", autocompletion=completion.study),
    ] = None,
    trial: Annotated[int | None, option("Number of a stored trial.", min=0)] = None,
    storage: opt.StorageOption = opt.DEFAULT_STORAGE,
) -> None:
    """Enqueue a baseline, or a trial of any study, as the next trial, projected to the search space."""
    if (baseline is None) == (trial is None):
        raise UsageError(
            "enqueue takes either --baseline NAME or --trial NUMBER, optionally with --from STUDY"
        )
    from experiments import BASELINES
    from mnist_search.search import warm_start
    from mnist_search.search.study import SearchStudy, quiet_optuna
    from mnist_search.storage.database import Store

    store = Store.open(storage, write=True)
    search_study = SearchStudy.open(store, study)
    if baseline is not None:
        params, given = warm_start.baseline_params(baseline), BASELINES[baseline].architecture.num_params()
    else:
        record = SearchStudy.open(store, source or study).record()
        params = warm_start.trial_params(record, trial or 0)
        given = record.config.space.architecture(params).num_params()
    projected = warm_start.project_to_space(search_study.config, params)
    network = search_study.config.space.architecture(projected)
    parameters = f"{network.num_params():,} parameters"
    if given != network.num_params():
        parameters += f" ({given:,} before the projection to the search space)"
    if not search_study.config.parameter_budget.fits(projected):
        raise UsageError(
            f"a network of {parameters} is over the budget of {search_study.config.budget:,}; "
            "enqueue a smaller one, or search with a larger --budget"
        )
    with quiet_optuna():
        added = search_study.enqueue(projected)
    outcome = f"enqueued in {study}:" if added else f"{study} already has a trial of"
    echo(f"{outcome} {network}, {parameters}")
    record = search_study.record()
    if added and len(record.done) >= record.n_trials:
        echo(f"the study is done; add a trial with: mnist-search resume {study} --trials +1", err=True)


def _execute(study: str, workers: opt.SearchOptions, stores: opt.StoreOptions, **arguments: Any) -> None:
    """Run a study, print its summary, and exit with the code of its outcome."""
    from mnist_search.execution.run_study import run_study
    from mnist_search.search.stopping import StopConditions

    arguments["stop_conditions"] = StopConditions(
        timeout=opt.parse_duration(workers.timeout, "--timeout"),
        trial_timeout=opt.parse_duration(workers.trial_timeout, "--trial-timeout"),
        target_accuracy=workers.target_accuracy,
        patience=workers.patience,
    )
    run_config = opt.run_config(study, workers, stores, keep_models=workers.keep_models, **arguments)
    result = run_study(run_config, workers.reporter())
    print_result(result.record)
    signal = result.stop and result.stop.signal
    if run_config.mlflow:
        if result.n_finished and not signal:
            if not workers.quiet:
                echo("writing report.html to the study's run in MLflow", err=True)
            _log_report(run_config)
        if not workers.quiet:
            print_link(result.record.name, stores.storage, run_config.mlflow)
    if result.stop and signal:
        command = masked(shlex.join(["mnist-search", *sys.argv[1:]]))
        echo(f"stopped by {result.stop.reason}; continue with: {command}", err=True)
        raise Exit(128 + signal)
    if not workers.quiet:
        verbs = AFTER_FINALS if has_champion(stores.storage, result.record) else NEXT_VERBS
        print_next_commands(result.record, stores.storage, tuple(verbs))


def _log_report(config: RunConfig) -> None:
    """Log the study's report to MLflow; a failure does not change the outcome of the search."""
    from mnist_search.report.page import log_report

    warn = partial(echo, err=True)
    try:
        log_report(config.storage, config.study, config.data_dir, tracking=config.mlflow, warn=warn)
    except Exception as error:  # noqa: BLE001 - the search is done
        warn(f"no report in MLflow: {first_line(error)}")


def _print_dry_run(
    config: StudyConfig, name: str, storage: str, requested: int | None, warm_start: WarmStart
) -> None:
    """Print what a study would train first; StudyConflict if it exists with another configuration."""
    from mnist_search.search.study import first_proposals, is_stored, n_trials
    from mnist_search.search.warm_start import enqueued_params
    from search_space.ranges import in_words

    enqueued = [] if is_stored(storage, name, config) else enqueued_params(config, warm_start)
    number = n_trials(storage, name, requested)
    budget, space = config.parameter_budget, config.space
    feasible, near = budget.feasible_share()
    echo(f"study {name}: {number} trials of {space.epochs} epochs, at most {config.budget:,} parameters")
    echo(
        f"networks of {space.smallest:,} to {space.largest:,} parameters, {space.num_architectures:.1e} "
        f"architectures; {feasible:.0%} of random ones fit, {near:.0%} have over 90 % of the budget"
    )
    echo(f"sampler {config.sampler}, pruner {config.pruner}, seed {config.seed}")
    for param in space.params:
        echo(f"{param} is restricted to {in_words(space.distributions[param])}")
    if enqueued:
        echo(f"enqueued by --warm-start {warm_start}:")
    for params in enqueued[:number]:
        architecture = space.architecture(params)
        echo(f"  {architecture.num_params():6,}  {architecture}")
    echo("first sampled proposals:")
    for architecture in first_proposals(config, 3, enqueued):
        echo(f"  {architecture.num_params():6,}  {architecture}")
    echo("nothing was written (--dry-run)")


def space(
    budget: Annotated[int, option("Maximum number of parameters.", "--budget", "-b", min=1)],
    depth: opt.DepthOption = None,
    width: opt.WidthOption = None,
    param: opt.ParamOption = None,
    file: Annotated[Path | None, option(opt.SPACE_HELP, "--space")] = None,
    toml: Annotated[bool, option("Print the whole space as a file for --space.", "--toml")] = False,
    output_format: opt.FormatOption = "table",
) -> None:
    """Print the size of a search space, and the share of it within the budget."""
    from experiments import StudyConfig
    from search_space.ranges import in_words, to_toml

    depths, widths = opt.parse_bounds(depth, "--depth"), opt.parse_bounds(width, "--width")
    try:
        params = opt.parse_params(param, file)
        config = StudyConfig.for_budget(budget, depth=depths, width=widths, params=params)
        feasible, near = config.parameter_budget.feasible_share()
    except ValueError as error:
        raise UsageError(f"{error}; mnist-search space --budget N shows its params") from error
    space = config.space
    if toml:
        echo(to_toml(space.distributions), nl=False)
        return
    document = {
        "budget": budget,
        "smallest": space.smallest,
        "largest": space.largest,
        "architectures": space.num_architectures,
        "feasible_share": feasible,
        "near_budget_share": near,
        "depth": "{} to {}".format(*space.depth),
        "width": "{} to {}".format(*space.width),
    }
    params = {name: in_words(distribution) for name, distribution in space.distributions.items()}
    if output_format != "table":
        print_fields(document | {"params": params}, output_format)
        return
    print_fields(document | {"architectures": f"{space.num_architectures:.1e}"}, output_format)
    print("\nparams")
    width_of_names = max(map(len, params))
    for name, values in params.items():
        print(f"{name:{width_of_names}}  {values}")
