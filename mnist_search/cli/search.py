"""Verbs that search: run, resume."""

from __future__ import annotations

import re
import shlex
import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mnist_search.cli.options import (
    DEFAULT_STORAGE,
    DEFAULT_TRACKING,
    DataOption,
    StorageOption,
    StudyArgument,
    TrackingOption,
    seconds,
    study_name,
)
from mnist_search.cli.space import DepthOption, WidthOption, space_of
from mnist_search.errors import NothingFinished, UsageError

if TYPE_CHECKING:
    from experiments import StudyConfig
    from mnist_search.execution.run_study import RunConfig, RunResult
    from mnist_search.search.stopping import StopConditions
    from mnist_search.tracking.config import TrackingConfig

HOW, WHERE, WHEN = "How to train", "Where things are kept", "When to stop"

JobsOption = Annotated[
    str, typer.Option("--jobs", "-j", help="Trials at once: a number, or auto.", rich_help_panel=HOW)
]
DeviceOption = Annotated[
    Literal["auto", "cuda", "mps", "cpu"], typer.Option(help="Where to train.", rich_help_panel=HOW)
]
PrecisionOption = Annotated[
    Literal["auto", "bf16", "fp32"],
    typer.Option(help="Of training; auto is bf16 where the hardware has it.", rich_help_panel=HOW),
]
KeepOption = Annotated[
    int, typer.Option("--keep-models", min=0, help="Best networks to keep.", rich_help_panel=WHERE)
]
MlflowOption = Annotated[
    bool, typer.Option("--mlflow/--no-mlflow", help="Log runs to MLflow.", rich_help_panel=WHERE)
]
ExperimentNameOption = Annotated[
    str,
    typer.Option(
        "--mlflow-experiment", envvar="MLFLOW_EXPERIMENT_NAME",
        help="MLflow experiment that holds the runs.", rich_help_panel=WHERE,
    ),
]  # fmt: skip
TimeoutOption = Annotated[
    str | None, typer.Option("--timeout", help="Stop after this long, such as 30m.", rich_help_panel=WHEN)
]
TrialTimeoutOption = Annotated[
    str | None,
    typer.Option("--trial-timeout", help="Prune a trial after this long.", rich_help_panel=WHEN),
]
TargetOption = Annotated[
    float | None,
    typer.Option(
        "--target", min=0.0, max=1.0, help="Stop at this validation accuracy.", rich_help_panel=WHEN
    ),
]
PatienceOption = Annotated[
    int | None,
    typer.Option(
        "--patience", min=1, help="Stop after this many trials without a better one.",
        rich_help_panel=WHEN,
    ),
]  # fmt: skip


def run(
    budget: Annotated[
        str,
        typer.Option(
            "--budget",
            "-b",
            metavar="N[,N...]",
            help="Most parameters of a network; several are searched in turn, the smallest first.",
        ),
    ],
    trials: Annotated[
        int, typer.Option("--trials", "-n", min=1, max=100_000, help="Trained trials of the whole study.")
    ] = 50,
    study: Annotated[
        str | None, typer.Option(help="Name of the study.", show_default="budget-BUDGET")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, max=10_000, help="Epochs of a full training.")] = 15,
    seed: Annotated[int, typer.Option(min=0, help="Of proposals, weights and batches.")] = 0,
    sampler: Annotated[str, typer.Option(help="tpe, random, gp, cmaes, qmc or nsgaii.")] = "tpe",
    pruner: Annotated[str, typer.Option(help="asha, median, percentile, hyperband or none.")] = "asha",
    fill: Annotated[
        bool, typer.Option("--fill/--no-fill", help="Scale every proposal to fill the budget.")
    ] = True,
    depth: DepthOption = None,
    width: WidthOption = None,
    warm_start: Annotated[
        Literal["plans", "seeds", "none"],
        typer.Option(
            help="What a study begins with: known plans, scaled to fill the budget, under our own "
            "training; the hand-tuned seeds that fit, as they are; or nothing that is known."
        ),
    ] = "plans",
    train_images: Annotated[int, typer.Option(min=1000, help="Images to train on.")] = 50_000,
    val_images: Annotated[int, typer.Option(min=100, help="Images to choose by.")] = 10_000,
    jobs: JobsOption = "auto",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    timeout: TimeoutOption = None,
    trial_timeout: TrialTimeoutOption = None,
    target: TargetOption = None,
    patience: PatienceOption = None,
    keep_models: KeepOption = 5,
    storage: StorageOption = DEFAULT_STORAGE,
    tracking_uri: TrackingOption = DEFAULT_TRACKING,
    mlflow: MlflowOption = True,
    mlflow_experiment: ExperimentNameOption = "mnist-search",
    data_dir: DataOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be searched; write nothing.")
    ] = False,
) -> None:
    """Search for the best network within a parameter budget, or go on searching.

    The same command continues a study that was stopped or killed, until it holds --trials
    trained trials.
    """
    from experiments import StudyConfig  # Optuna's distributions

    def definition(limit: int) -> StudyConfig:
        try:
            return StudyConfig(
                budget=limit, space=space_of(limit, depth, width, epochs), fill=fill, sampler=sampler,
                pruner=pruner, seed=seed, train_images=train_images, val_images=val_images,
            )  # fmt: skip
        except ValueError as error:
            raise UsageError(f"{error}; see mnist-search run --help") from error

    steps = [(name, definition(limit)) for name, limit in _parse_budgets(budget, study)]
    limits = _limits(timeout, trial_timeout, target, patience)
    if dry_run:
        for name, study_config in steps:
            _print_dry_run(study_config, name, trials)
        return
    from mnist_search.execution.run_study import RunConfig  # Optuna

    smaller = None
    for name, study_config in steps:
        _execute(
            RunConfig(
                storage=storage, study=name, config=study_config, n_trials=trials, jobs=parse_jobs(jobs),
                device=device, precision=precision, data_dir=data_dir, keep_models=keep_models,
                mlflow=tracking_config(mlflow, tracking_uri, mlflow_experiment), limits=limits,
                warm_start=warm_start, smaller=smaller,
            )
        )  # fmt: skip
        smaller = name


def _parse_budgets(budgets: str, study: str | None) -> list[tuple[str, int]]:
    """Names and budgets of the studies, the smallest first."""
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", budgets):
        raise UsageError(f"--budget takes a number of parameters, or several as 1000,2000, not {budgets!r}")
    limits = sorted({int(text) for text in budgets.split(",")})
    if study is not None and len(limits) == 1:
        return [(study_name(study), limits[0])]
    return [(study_name(f"{study or 'budget'}-{limit}"), limit) for limit in limits]


def resume(
    study: StudyArgument,
    trials: Annotated[
        str | None, typer.Option("--trials", "-n", help="Trained trials of the study, or +N more.")
    ] = None,
    jobs: JobsOption = "auto",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    timeout: TimeoutOption = None,
    trial_timeout: TrialTimeoutOption = None,
    target: TargetOption = None,
    patience: PatienceOption = None,
    keep_models: KeepOption = 5,
    storage: StorageOption = DEFAULT_STORAGE,
    tracking_uri: TrackingOption = DEFAULT_TRACKING,
    mlflow: MlflowOption = True,
    mlflow_experiment: ExperimentNameOption = "mnist-search",
    data_dir: DataOption = None,
) -> None:
    """Go on with a study by its name; everything else is in the store."""
    from mnist_search.execution.run_study import RunConfig  # Optuna

    match = re.fullmatch(r"(\+?)([1-9]\d{0,5})", trials or "+0") if trials else None
    if trials and not match:
        raise UsageError(f"--trials takes a number such as 60, or +10 for ten more, not {trials!r}")
    number = int(match[2]) if match else 0
    adds = bool(match and match[1])
    _execute(
        RunConfig(
            storage=storage, study=study, config=None, n_trials=None if adds else number or None,
            more=number if adds else 0, jobs=parse_jobs(jobs), device=device, precision=precision,
            data_dir=data_dir, keep_models=keep_models,
            mlflow=tracking_config(mlflow, tracking_uri, mlflow_experiment),
            limits=_limits(timeout, trial_timeout, target, patience),
        )
    )  # fmt: skip


def _execute(run_config: RunConfig) -> None:
    """Run, show, sum up, and exit with the code that tells how it went."""
    from mnist_search.execution.progress import make_reporter  # rich
    from mnist_search.execution.run_study import run_study  # Optuna

    with make_reporter() as screen:
        result = run_study(run_config, screen)
    _print_summary(result, run_config)
    if result.stop and result.stop.signal:
        again = shlex.join(["mnist-search", *sys.argv[1:]])
        typer.echo(f"stopped by {result.stop.reason}; go on with: {again}", err=True)
        raise typer.Exit(128 + result.stop.signal)
    if result.stop and not result.record.done:
        raise NothingFinished(f"{result.stop.reason} before any trial finished; give it more time")


def _print_summary(result: RunResult, run_config: RunConfig) -> None:
    from mnist_search.cli.output import text_of
    from mnist_search.cli.show import status_of

    for name, value in status_of(result.record).items():
        typer.echo(f"{name.replace('_', ' '):15} {text_of(name, value)}")
    if run_config.mlflow:
        typer.echo("compare runs with: mnist-search ui", err=True)


def _limits(
    timeout: str | None, trial_timeout: str | None, target: float | None, patience: int | None
) -> StopConditions:
    from mnist_search.search.stopping import StopConditions  # Optuna's distributions

    return StopConditions(
        timeout=seconds(timeout, "--timeout"),
        trial_timeout=seconds(trial_timeout, "--trial-timeout"),
        target_accuracy=target,
        patience=patience,
    )


def tracking_config(wanted: bool, tracking_uri: str, study_config: str) -> TrackingConfig | None:
    """Where runs go; None for nowhere."""
    from mnist_search.tracking.config import make_tracking_config  # SQLAlchemy

    return make_tracking_config(tracking_uri, study_config) if wanted else None


def parse_jobs(text: str) -> int | None:
    """A number of workers; None for as many as the machine carries.

    Raises:
        UsageError: neither a number nor ``auto``.
    """
    if text == "auto":
        return None
    if not re.fullmatch(r"[1-9]\d{0,2}", text):
        raise UsageError(f"--jobs takes a number from 1 to 999, or auto, not {text!r}")
    return int(text)


def _print_dry_run(study_config: StudyConfig, name: str, trials: int) -> None:
    """What a run would do, with the first proposals that it would make."""
    import optuna

    from mnist_search.search.pruners import check_pruner  # Optuna
    from mnist_search.search.samplers import check_sampler, sampler_for_trial

    check_sampler(study_config.sampler)
    check_pruner(study_config.pruner)
    budget, space = study_config.parameter_budget, study_config.space
    feasible, near = budget.feasible_share()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    typer.echo(
        f"study {name}: {trials} trials of {space.epochs} epochs, nothing over {budget.limit:,} parameters"
    )
    typer.echo(f"networks of {budget.smallest:,} to {budget.largest:,} parameters, {space.num_architectures:.1e} "
               f"architectures; {feasible:.0%} of random ones fit, {near:.0%} nearly fill the budget")  # fmt: skip
    typer.echo("first proposals:")
    for number in range(3):
        study.sampler = sampler_for_trial(study_config, number)
        architecture = space.suggest(study.ask()).architecture
        typer.echo(f"  {architecture.num_params():6,}  {architecture}")
    typer.echo("nothing was written (--dry-run)")
