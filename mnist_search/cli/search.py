"""Verbs that search or show the search space: run, resume, enqueue, space."""

from __future__ import annotations

import re
import shlex
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mnist_search.cli import options as opt
from mnist_search.cli.options import stored
from mnist_search.cli.output import format_value, print_fields
from mnist_search.cli.show import study_status
from mnist_search.errors import MnistSearchError, UsageError

if TYPE_CHECKING:
    from experiments import StudyConfig
    from mnist_search.execution.config import RunConfig
    from mnist_search.search.stopping import StopConditions


def run(
    budget: Annotated[
        str,
        typer.Option(
            "--budget",
            "-b",
            metavar="N[,N...]",
            help="Maximum number of parameters; several budgets are searched in ascending order.",
        ),
    ],
    trials: Annotated[
        int | None,
        stored("50", "--trials", "-n", min=1, max=100_000, help="Total number of trials to train."),
    ] = None,
    study: Annotated[
        str | None, typer.Option(help="Name of the study.", show_default="budget-BUDGET")
    ] = None,
    epochs: Annotated[int | None, stored("15", min=1, max=10_000, help="Epochs of a trial.")] = None,
    seed: Annotated[int | None, stored("0", min=0, help="Seed of proposals, weights and batches.")] = None,
    sampler: Annotated[str | None, stored("tpe", help="Sampler: tpe, random or gp.")] = None,
    pruner: Annotated[
        str | None, stored("asha", help="Pruner: asha, median, percentile, hyperband or none.")
    ] = None,
    fill: Annotated[
        bool | None, stored("fill", "--fill/--no-fill", help="Scale all widths to fill the budget.")
    ] = None,
    depth: opt.DepthOption = None,
    width: opt.WidthOption = None,
    warm_start: Annotated[
        Literal["templates", "baselines", "none"],
        typer.Option(
            help="Trials to enqueue first: in a new study, known templates scaled to the budget, with the "
            "default training; the hand-tuned baselines within the budget, projected to the space; or none."
        ),
    ] = "templates",
    train_images: Annotated[int | None, stored("50000", min=1000, help="Number of training images.")] = None,
    val_images: Annotated[int | None, stored("10000", min=100, help="Number of validation images.")] = None,
    jobs: opt.JobsOption = "auto",
    device: opt.DeviceOption = "auto",
    precision: opt.PrecisionOption = "auto",
    timeout: opt.TimeoutOption = None,
    trial_timeout: opt.TrialTimeoutOption = None,
    target_accuracy: opt.TargetAccuracyOption = None,
    patience: opt.PatienceOption = None,
    keep_models: opt.KeepOption = 5,
    storage: opt.StorageOption = opt.DEFAULT_STORAGE,
    tracking_uri: opt.TrackingOption = opt.DEFAULT_TRACKING,
    mlflow: opt.MlflowOption = True,
    mlflow_experiment: opt.ExperimentNameOption = opt.DEFAULT_EXPERIMENT,
    data_dir: opt.DataOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the configuration and the first proposals, and exit.")
    ] = False,
) -> None:
    """Search for the most accurate network within a parameter budget.

    The same command continues a study that was stopped or killed, until the study has
    --trials trials. Options of its configuration that are not given take the stored values.
    """
    from mnist_search.search.study import n_trials, resolve_config

    options: dict[str, Any] = {
        "depth": opt.parse_bounds(depth, "--depth"), "width": opt.parse_bounds(width, "--width"), "epochs": epochs,
        "seed": seed, "sampler": sampler, "pruner": pruner, "fill": fill,
        "train_images": train_images, "val_images": val_images,
    }  # fmt: skip
    try:
        configs = {
            name: resolve_config(storage, name, number, options)
            for name, number in _parse_budgets(budget, study).items()
        }
    except ValueError as error:
        raise UsageError(f"{error}; see mnist-search run --help") from error
    if dry_run:
        for name, config in configs.items():
            _print_dry_run(config, name, n_trials(storage, name, trials))
        return
    smaller = None
    for name, config in configs.items():
        _execute(
            storage=storage, study=name, config=config, n_trials=trials, jobs=opt.parse_jobs(jobs),
            device=device, precision=precision, data_dir=data_dir, keep_models=keep_models,
            mlflow=opt.tracking_config(mlflow, tracking_uri, mlflow_experiment),
            stop_conditions=_stop_conditions(timeout, trial_timeout, target_accuracy, patience),
            warm_start=warm_start, smaller_study=smaller,
        )  # fmt: skip
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
    trials: Annotated[
        str | None, typer.Option("--trials", "-n", help="Total number of trials, or +N for N more.")
    ] = None,
    jobs: opt.JobsOption = "auto",
    device: opt.DeviceOption = "auto",
    precision: opt.PrecisionOption = "auto",
    timeout: opt.TimeoutOption = None,
    trial_timeout: opt.TrialTimeoutOption = None,
    target_accuracy: opt.TargetAccuracyOption = None,
    patience: opt.PatienceOption = None,
    keep_models: opt.KeepOption = 5,
    storage: opt.StorageOption = opt.DEFAULT_STORAGE,
    tracking_uri: opt.TrackingOption = opt.DEFAULT_TRACKING,
    mlflow: opt.MlflowOption = True,
    mlflow_experiment: opt.ExperimentNameOption = opt.DEFAULT_EXPERIMENT,
    data_dir: opt.DataOption = None,
) -> None:
    """Continue a study by its name, under its stored configuration."""
    if trials and not re.fullmatch(r"\+?[1-9]\d{0,5}", trials):
        raise UsageError(f"--trials takes a number such as 60, or +10 for ten more, not {trials!r}")
    number, adds = int(trials or 0), bool(trials and trials[0] == "+")
    _execute(
        storage=storage, study=study, config=None, n_trials=None if adds else number or None,
        extra_trials=number if adds else 0, jobs=opt.parse_jobs(jobs), device=device, precision=precision,
        data_dir=data_dir, keep_models=keep_models,
        mlflow=opt.tracking_config(mlflow, tracking_uri, mlflow_experiment),
        stop_conditions=_stop_conditions(timeout, trial_timeout, target_accuracy, patience),
    )  # fmt: skip


def enqueue(
    study: opt.StudyArgument,
    baseline: Annotated[str | None, typer.Option(help="Name of a baseline, such as seed-001.")] = None,
    source: Annotated[
        str | None, typer.Option("--from", help="Study of the stored trial.", show_default="STUDY")
    ] = None,
    trial: Annotated[int | None, typer.Option(min=0, help="Number of a stored trial.")] = None,
    storage: opt.StorageOption = opt.DEFAULT_STORAGE,
) -> None:
    """Enqueue a baseline, or a trial of any study, as the next trial, projected to the search space."""
    if (baseline is None) == (trial is None):
        raise UsageError(
            "enqueue takes either --baseline NAME or --trial NUMBER, optionally with --from STUDY"
        )
    from mnist_search.search import warm_start
    from mnist_search.search.study import SearchStudy
    from mnist_search.storage.database import Store

    store = Store.open(storage, write=True)
    search_study = SearchStudy.open(store, study)
    if baseline is not None:
        params = warm_start.baseline_params(baseline)
    else:
        params = warm_start.trial_params(SearchStudy.open(store, source or study).record(), trial or 0)
    projected = warm_start.project_to_space(search_study.config, params)
    added = search_study.enqueue(projected)
    network = search_study.config.space.architecture(projected)
    outcome = f"enqueued in {study}:" if added else f"{study} already has a trial of"
    typer.echo(f"{outcome} {network}, {network.num_params():,} parameters")
    record = search_study.record()
    if added and len(record.done) >= record.n_trials:
        typer.echo(f"the study is done; add a trial with: mnist-search resume {study} --trials +1", err=True)


def _execute(**options: Any) -> None:
    """Run a study, print its summary, and exit with the code of its outcome."""
    from mnist_search.execution.config import RunConfig
    from mnist_search.execution.progress import make_reporter
    from mnist_search.execution.run_study import run_study

    run_config = RunConfig(**options)
    result = run_study(run_config, make_reporter)
    for name, value in study_status(result.record).items():
        typer.echo(f"{name.replace('_', ' '):15} {format_value(name, value)}")
    if run_config.mlflow:
        if result.n_finished and not (result.stop and result.stop.signal):
            _log_report(run_config)
        typer.echo("compare runs with: mnist-search ui", err=True)
    if result.stop and result.stop.signal:
        command = shlex.join(["mnist-search", *sys.argv[1:]])
        typer.echo(f"stopped by {result.stop.reason}; continue with: {command}", err=True)
        raise typer.Exit(128 + result.stop.signal)


def _log_report(config: RunConfig) -> None:
    """Log the study's report to MLflow; a failure does not change the outcome of the search."""
    from mnist_search.report.page import log_report

    warn = partial(typer.echo, err=True)
    try:
        log_report(config.storage, config.study, config.data_dir, tracking=config.mlflow, warn=warn)
    except MnistSearchError as error:
        warn(f"no report in MLflow: {error}")


def _stop_conditions(
    timeout: str | None, trial_timeout: str | None, target_accuracy: float | None, patience: int | None
) -> StopConditions:
    from mnist_search.search.stopping import StopConditions

    return StopConditions(
        timeout=opt.parse_duration(timeout, "--timeout"),
        trial_timeout=opt.parse_duration(trial_timeout, "--trial-timeout"),
        target_accuracy=target_accuracy,
        patience=patience,
    )


def _print_dry_run(config: StudyConfig, name: str, n_trials: int) -> None:
    from mnist_search.search.study import first_proposals

    budget, space = config.parameter_budget, config.space
    feasible, near = budget.feasible_share()
    typer.echo(
        f"study {name}: {n_trials} trials of {space.epochs} epochs, at most {config.budget:,} parameters"
    )
    typer.echo(
        f"networks of {space.smallest:,} to {space.largest:,} parameters, {space.num_architectures:.1e} "
        f"architectures; {feasible:.0%} of random ones fit, {near:.0%} have over 90 % of the budget"
    )
    typer.echo("sampled proposals with --warm-start none:")
    for architecture in first_proposals(config, 3):
        typer.echo(f"  {architecture.num_params():6,}  {architecture}")
    typer.echo("nothing was written (--dry-run)")


def space(
    budget: Annotated[int, typer.Option("--budget", "-b", min=1, help="Maximum number of parameters.")],
    depth: opt.DepthOption = None,
    width: opt.WidthOption = None,
    output_format: opt.FormatOption = "table",
) -> None:
    """Print the size of a search space, and the share of it within the budget."""
    from experiments import StudyConfig

    bounds = opt.parse_bounds(depth, "--depth"), opt.parse_bounds(width, "--width")
    try:
        config = StudyConfig.for_budget(budget, depth=bounds[0], width=bounds[1])
        feasible, near = config.parameter_budget.feasible_share()
    except ValueError as error:
        raise UsageError(f"{error}; see mnist-search space --help") from error
    search_space = config.space
    document = {
        "budget": budget,
        "smallest": search_space.smallest,
        "largest": search_space.largest,
        "architectures": search_space.num_architectures,
        "feasible_share": feasible,
        "near_budget_share": near,
        "depth": "{}:{}".format(*search_space.depth),
        "width": "{}:{}".format(*search_space.width),
    }
    params = {name: str(distribution) for name, distribution in search_space.distributions.items()}
    if output_format != "table":
        print_fields(document | {"params": params}, output_format)
        return
    print_fields(document | {"architectures": f"{search_space.num_architectures:.1e}"}, output_format)
    print("\nparams")
    print_fields(params, output_format)
