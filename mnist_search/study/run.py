"""A run of a study, from the checks before anything is written to the last word in MLflow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import optuna
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from experiments import Experiment
from mnist_search.errors import DiskError, MnistSearchError, NotFound, UnusableConfiguration
from mnist_search.facts import StudyFacts
from mnist_search.study.events import Message
from mnist_search.study.ledger import Ledger
from mnist_search.study.limits import Limits
from mnist_search.study.mirror import Mirror
from mnist_search.study.plots import plots_page
from mnist_search.study.pruners import check_pruner
from mnist_search.study.samplers import check_sampler
from mnist_search.study.store import Store, file_of
from mnist_search.study.supervisor import Screen, Stop, supervise
from mnist_search.study.warm import enqueue_best, enqueue_plans, enqueue_seeds
from mnist_search.study.worker import Job, main
from mnist_search.tracking import NullTracker, Tracker
from mnist_search.tracking.place import MlflowPlace, local_file

if TYPE_CHECKING:
    from mnist_search.training.digits import Digits

WarmStart: TypeAlias = Literal["none", "seeds", "plans"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one command asks for.

    Attributes:
        experiment: the definition; None to continue whatever the store holds.
        target: trained trials that the study shall hold; None for as many as it was asked before.
        more: trained trials to add to that.
        jobs: worker processes; None for as many as the machine carries.
        mlflow: where runs are written; None for nowhere.
        keep_models: how many trained networks are kept.
        warm_start: what is put first.
        smaller: study of a smaller budget whose best are put first.
    """

    storage: str
    study: str
    experiment: Experiment | None
    target: int | None
    more: int = 0
    jobs: int | None = None
    device: str = "auto"
    precision: str = "auto"
    data_dir: Path | None = None
    mlflow: MlflowPlace | None = None
    keep_models: int = 5
    warm_start: WarmStart = "none"
    smaller: str | None = None
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Result:
    """What a run came to.

    Attributes:
        stop: why it ended early; None when the study is full.
    """

    facts: StudyFacts
    stop: Stop | None


def run_study(plan: Plan, make_screen: Callable[[Callable[[], StudyFacts], int], Screen]) -> Result:
    """Bring a study to its target, or as far as its limits and its user let it come.

    Args:
        plan: what to run.
        make_screen: given the facts as they stand and the number of workers.

    Raises:
        MnistSearchError: nothing could be run; what was there is as it was.
    """
    try:
        return _run(plan, make_screen)
    except (OSError, SQLAlchemyError, StorageInternalError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DiskError(f"cannot write ({reason}); make room, then run the same command again") from error


def _run(plan: Plan, make_screen: Callable[[Callable[[], StudyFacts], int], Screen]) -> Result:
    from mnist_search.training.shared import shared_digits  # torch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    _refuse_early(plan)
    full = _is_full(plan)
    device, most_jobs = ("cpu", 0) if full else device_and_jobs(plan.device, plan.jobs)
    data_dir = plan.data_dir if full else _training_data(plan.data_dir)
    ledger = _open(plan)
    facts = ledger.facts()
    jobs = max(0, min(most_jobs, facts.trials_target - len(facts.done)))
    screen = make_screen(ledger.facts, jobs)
    with ledger.lock("mirror"):  # or two machines would make two parent runs
        mlflow = _prepare_mlflow(plan, facts, screen)
    tracker = _tracker(mlflow, plan.study, screen)
    mirror = Mirror(ledger, tracker, cache(lambda: _validation_images(ledger.experiment, data_dir)))
    mirror.reconcile()
    stop = None
    if jobs:
        assert data_dir is not None  # None only where nothing is left to train
        with shared_digits(data_dir, ledger.experiment.split_seed) as digits:
            job = Job(
                storage=plan.storage, study=plan.study, data_dir=data_dir, digits=digits, device=device,
                precision=plan.precision, mlflow=mlflow, keep_models=plan.keep_models, limits=plan.limits,
            )  # fmt: skip
            stop = _supervise(job, jobs, screen, ledger, tracker)
        page = plots_page(ledger.study)
        if page:
            tracker.log_study_page(page, "plots.html")
    return Result(mirror.reconcile(status="KILLED" if stop and stop.signal else "FINISHED"), stop)


def _supervise(job: Job, jobs: int, screen: Screen, ledger: Ledger, tracker: Tracker) -> Stop | None:
    try:
        return supervise(job, jobs, screen, main)
    except MnistSearchError:
        tracker.update_study(ledger.facts(), status="FAILED")
        raise
    finally:
        ledger.put_back_dead()


def _refuse_early(plan: Plan) -> None:
    """Refuse what can be known before anything is loaded or written."""
    if plan.experiment is not None:
        check_sampler(plan.experiment.sampler)
        check_pruner(plan.experiment.pruner)
    store = file_of(plan.storage)
    if plan.mlflow and plan.mlflow.artifact_root and store == local_file(plan.mlflow.tracking_uri):
        raise UnusableConfiguration(
            "Optuna and MLflow cannot share one database: name two with --storage and --tracking-uri"
        )


def _is_full(plan: Plan) -> bool:
    """Whether nothing is left to train, so that neither device nor data are needed.

    Raises:
        NotFound: there is nothing to resume.
        StudyConflict: the study has another definition.
    """
    try:
        ledger = Ledger.open(Store.open(plan.storage), plan.study)
    except NotFound:
        if plan.experiment is None:
            raise
        return False
    if plan.experiment is not None:
        ledger.refuse_another(plan.experiment)
    facts = ledger.facts()
    return len(facts.done) >= max(plan.target or 0, facts.trials_target) + plan.more


def device_and_jobs(name: str, jobs: int | None) -> tuple[str, int]:
    """The device, and how many trials it carries at once where ``jobs`` does not say."""
    from mnist_search.training.at_once import trials_at_once  # torch
    from mnist_search.training.device import resolve_device

    device = resolve_device(name)
    return device.type, jobs or trials_at_once(device)


def _training_data(data_dir: Path | None) -> Path:
    from mnist_search.training import files  # numpy

    folder = files.find(data_dir)
    files.verify(folder, files.TRAIN_FILES)
    return folder.absolute()


def _open(plan: Plan) -> Ledger:
    if plan.experiment is not None:
        store = Store.open_or_create(plan.storage)
        ledger = Ledger.open_or_create(store, plan.study, plan.experiment, plan.target or 1)
        if plan.warm_start == "seeds":
            enqueue_seeds(ledger)
        if plan.warm_start == "plans":
            enqueue_plans(ledger)
        if plan.smaller is not None:
            enqueue_best(ledger, Ledger.open(store, plan.smaller).facts())
        return ledger
    ledger = Ledger.open(Store.open(plan.storage, write=True), plan.study)
    ledger.raise_target((plan.target or ledger.target) + plan.more)
    return ledger


def _prepare_mlflow(plan: Plan, facts: StudyFacts, screen: Screen) -> MlflowPlace | None:
    if plan.mlflow is None:
        return None
    from mnist_search.tracking.prepare import parent_of, prepare  # a second to import

    return prepare(plan.mlflow, parent_of(facts), lambda text: screen.show(Message(text)))


def _tracker(mlflow: MlflowPlace | None, study: str, screen: Screen) -> Tracker:
    if mlflow is None:
        return NullTracker()
    from mnist_search.tracking.mlflow_tracker import MlflowTracker  # see above

    return MlflowTracker(mlflow, study, lambda text: screen.show(Message(text)))


def _validation_images(experiment: Experiment, data_dir: Path | None) -> Digits:
    from mnist_search.training.device import CPU  # torch
    from mnist_search.training.digits import load_split

    split = (experiment.train_images, experiment.val_images, experiment.split_seed)
    return load_split(_training_data(data_dir), *split, CPU).val
