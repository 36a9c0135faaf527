"""Read studies of the store as records."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import optuna
import sqlalchemy as sa
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from experiments import StudyConfig
from mnist_search.errors import NotFound, UnusableConfiguration
from mnist_search.records import (
    EpochMetrics,
    FinalsRecord,
    FinalStage,
    FinalTask,
    State,
    StudyRecord,
    TrialRecord,
)
from mnist_search.storage.tables import epochs, tracked_runs

if TYPE_CHECKING:
    from mnist_search.storage.database import Store

CONFIG_ATTR, N_TRIALS_ATTR, UID_ATTR = "experiment", "trials_target", "uid"
"""Attributes of an Optuna study that mnist-search created for a search."""

KIND_ATTR = "kind"
"""Attribute of an Optuna study that holds finals."""

ATTEMPT_ATTR, VERSION_ATTR, OVER_BUDGET_ATTR, TASK_ATTR = "attempt", "version", "over_budget", "task"
"""Attributes of a trial: owner of its last lease, version of mnist-search at that time, whether the budget
rejected it before training, and what a final trial trains."""

STAGES_ATTR = "later_stages"
"""Attribute of a study of finals: the stages after the stored trials."""

SOFTWARE_ATTR = "software"
"""Attribute of a trial: the versions of torch and of the checkout in its last attempt."""


def load(store: Store, name: str) -> optuna.Study:
    """The Optuna study of this name; NotFound if the store has none."""
    study = find(store, name)
    if study is None:
        raise NotFound(f"no study {name!r} in {store}; list its studies with mnist-search studies")
    return study


def find(store: Store, name: str) -> optuna.Study | None:
    """The Optuna study of this name; None if the store has none."""
    try:
        return optuna.load_study(study_name=name, storage=store.storage)
    except KeyError:
        return None


def mnist_search_studies(store: Store) -> list[optuna.Study]:
    """Every search study of the store that mnist-search created, the latest last."""
    studies = (load(store, name) for name in optuna.get_all_study_names(store.storage))
    return [study for study in studies if CONFIG_ATTR in study.user_attrs]


def mnist_search_names(store: Store) -> list[str]:
    """Names of the search studies and finals of the store."""
    loaded = (load(store, name) for name in optuna.get_all_study_names(store.storage))
    return [study.study_name for study in loaded if {CONFIG_ATTR, KIND_ATTR} & study.user_attrs.keys()]


def name_metrics(study: optuna.Study, *names: str) -> None:
    """Name the objectives of a study, for optuna-dashboard and for Optuna's figures."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(list(names))


def stored_config(study: optuna.Study) -> StudyConfig:
    """The StudyConfig of a study; UnusableConfiguration if mnist-search, or this version, did not create it."""
    text = study.user_attrs.get(CONFIG_ATTR)
    if text is None:
        raise UnusableConfiguration(
            f"{study.study_name!r} is not a search study of mnist-search; create one with --study NAME"
        )
    try:
        return StudyConfig.from_json(text)
    except ValueError as error:
        raise UnusableConfiguration(
            f"cannot read study {study.study_name!r}: {error}; try a newer mnist-search"
        ) from error


def study_record(store: Store, study: optuna.Study) -> StudyRecord:
    """The study with its trials, as stored now; UnusableConfiguration if mnist-search did not create it."""
    config, attributes = stored_config(study), study.user_attrs
    if not {UID_ATTR, N_TRIALS_ATTR} <= attributes.keys():
        raise UnusableConfiguration(
            f"{study.study_name!r} is an incomplete copy of a search study; open the original one"
        )
    return StudyRecord(
        name=study.study_name,
        uid=str(attributes[UID_ATTR]),
        config=config,
        n_trials=int(attributes[N_TRIALS_ATTR]),
        trials=trial_records(store, study),
    )


def finals_record(store: Store, study: optuna.Study) -> FinalsRecord:
    """The finals, as stored now."""
    uid, trials = str(study.user_attrs[UID_ATTR]), trial_records(store, study)
    later = [FinalStage(**stage) for stage in study.user_attrs.get(STAGES_ATTR, ())]
    return FinalsRecord(name=study.study_name, uid=uid, trials=trials, later=later)


def trial_records(store: Store, study: optuna.Study) -> list[TrialRecord]:
    """Every trial of a study of mnist-search, by number."""
    uid = str(study.user_attrs[UID_ATTR])
    runs = {row["trial_id"]: dict(row) for row in _rows(store, tracked_runs, uid)}
    curves: defaultdict[int, list[EpochMetrics]] = defaultdict(list)
    for row in _rows(store, epochs, uid):
        metrics = {name: value for name, value in row.items() if value is not None}
        curves[row["trial_id"]].append(EpochMetrics.from_dict(metrics))
    return [
        trial_record(trial, curves[trial._trial_id], runs.get(trial._trial_id, {}))  # noqa: SLF001
        for trial in study.get_trials(deepcopy=False)
    ]


def _rows(store: Store, table: sa.Table, study_uid: str) -> Sequence[sa.RowMapping]:
    """The rows of a study, in order; none in a store of version 0.1, which lacks the table."""
    if not store.has_table(table):
        return []
    of_study = sa.select(table).where(table.c.study_uid == study_uid).order_by(*table.primary_key)
    with store.engine.connect() as connection:
        return connection.execute(of_study).mappings().all()


def trial_record(trial: FrozenTrial, curve: Sequence[EpochMetrics], run: Mapping[str, Any]) -> TrialRecord:
    """One trial; ``run`` is its row of ``tracked_runs``. Version 0.1 stored the epochs as an attribute."""
    attrs = trial.user_attrs
    curve = curve or [EpochMetrics.from_dict(epoch) for epoch in attrs.get("curve") or []]
    task = FinalTask.from_dict(attrs[TASK_ATTR]) if TASK_ATTR in attrs else None
    val_accuracy, val_loss = (curve[-1].val_accuracy, curve[-1].val_loss) if curve else (None, None)
    test_accuracy, test_loss = trial.values if task and trial.values else (None, None)
    if task and task.split:
        (val_accuracy, val_loss), test_accuracy, test_loss = (test_accuracy, test_loss), None, None
    return TrialRecord(
        number=trial.number,
        trial_id=trial._trial_id,  # noqa: SLF001
        state=cast("State", trial.state.name),
        params=trial.params,
        num_params=task.architecture.num_params() if task else attrs.get("num_params"),
        val_accuracy=val_accuracy,
        val_loss=val_loss,
        curve=curve,
        is_over_budget=is_over_budget(trial),
        rejected=attrs.get("rejected", 0),
        crashes=attrs.get("deaths", 0),
        run_id=run.get("run_id"),
        model_id=run.get("model_id"),
        started=trial.datetime_start,
        completed=trial.datetime_complete,
        task=task,
        test_accuracy=test_accuracy,
        test_loss=test_loss,
        software=attrs.get(SOFTWARE_ATTR, {}),
        **{name: attrs.get(name) for name in (ATTEMPT_ATTR, VERSION_ATTR, "reason", "device", "traceback")},
    )


def is_over_budget(trial: FrozenTrial) -> bool:
    """Whether the trial was rejected before training; such a trial takes no slot."""
    old_reason = str(trial.user_attrs.get("reason")).startswith("over budget")  # version 0.1 has no attribute
    return trial.state == TrialState.PRUNED and trial.user_attrs.get(OVER_BUDGET_ATTR, old_reason)
