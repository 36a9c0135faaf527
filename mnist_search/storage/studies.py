"""Read studies of the store as records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import optuna
import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState

from experiments import StudyConfig
from mnist_search.errors import NotFound, UnusableConfiguration
from mnist_search.records import STATES, EpochMetrics, FinalTask, StudyRecord, TrialRecord
from mnist_search.storage.tables import epochs, tracked_runs

if TYPE_CHECKING:
    from mnist_search.storage.database import Store

CONFIG_ATTR, N_TRIALS_ATTR, UID_ATTR = "experiment", "trials_target", "uid"
"""Attributes of an Optuna study that mnist-search created."""

ATTEMPT_ATTR, VERSION_ATTR = "attempt", "version"
"""Attributes of a trial: owner of its last lease, and version of mnist-search at that time."""

OVER_BUDGET_ATTR = "over_budget"
"""Attribute of a trial that the budget rejected before training."""

TASK_ATTR = "task"
"""Attribute of a final trial: what it trains, as plain values."""


def load(store: Store, name: str) -> optuna.Study:
    """The Optuna study of this name.

    Raises:
        NotFound: no such study in the store.
    """
    try:
        return optuna.load_study(study_name=name, storage=store.storage)
    except KeyError:
        raise NotFound(f"no study {name!r} in {store}; list its studies with mnist-search studies") from None


def mnist_search_studies(store: Store) -> list[optuna.Study]:
    """Every search study of the store that mnist-search created, the latest last."""
    studies = (load(store, name) for name in optuna.get_all_study_names(store.storage))
    return [study for study in studies if CONFIG_ATTR in study.user_attrs]


def stored_config(study: optuna.Study) -> StudyConfig:
    """The StudyConfig of a study.

    Raises:
        UnusableConfiguration: mnist-search did not create the study, or a newer version did.
    """
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
    """The study with its trials, as stored now."""
    return StudyRecord(
        name=study.study_name,
        uid=str(study.user_attrs[UID_ATTR]),
        config=stored_config(study),
        n_trials=int(study.user_attrs[N_TRIALS_ATTR]),
        trials=trial_records(store, study),
    )


def trial_records(store: Store, study: optuna.Study) -> list[TrialRecord]:
    """The trials of a study of either kind, as stored now."""
    uid = str(study.user_attrs[UID_ATTR])
    stored = curves(store, uid)
    runs = _runs(store, uid)
    return [
        _trial_record(trial, stored.get(trial._trial_id, ()), runs.get(trial._trial_id))  # noqa: SLF001
        for trial in study.get_trials(deepcopy=False)
    ]


def curves(
    store: Store, study_uid: str, trial_ids: Collection[int] | None = None
) -> Mapping[int, Sequence[EpochMetrics]]:
    """Stored epochs of a study's trials, by trial id, in order; empty in a store of version 0.1."""
    if not store.has_table(epochs):
        return {}
    of_study = sa.select(epochs).where(epochs.c.study_uid == study_uid).order_by(epochs.c.epoch)
    if trial_ids is not None:
        of_study = of_study.where(epochs.c.trial_id.in_(trial_ids))
    stored: defaultdict[int, list[EpochMetrics]] = defaultdict(list)
    with store.engine.connect() as connection:
        for row in connection.execute(of_study).mappings():
            metrics = {name: value for name, value in row.items() if value is not None}
            stored[row["trial_id"]].append(EpochMetrics.from_dict(metrics))
    return stored


def _runs(store: Store, study_uid: str) -> dict[int, Any]:
    if not store.has_table(tracked_runs):
        return {}
    of_study = sa.select(tracked_runs).where(tracked_runs.c.study_uid == study_uid)
    with store.engine.connect() as connection:
        return {row.trial_id: row for row in connection.execute(of_study)}


def _trial_record(trial: FrozenTrial, stored: Sequence[EpochMetrics], run: Any) -> TrialRecord:
    """One trial; ``run`` is its row of ``tracked_runs``. Version 0.1 stored the epochs as an attribute."""
    attrs = trial.user_attrs
    curve = list(stored) or [EpochMetrics.from_dict(epoch) for epoch in attrs.get("curve") or []]
    task = FinalTask.from_dict(attrs[TASK_ATTR]) if TASK_ATTR in attrs else None
    test_accuracy, test_loss = trial.values if task and trial.values else (None, None)
    return TrialRecord(
        number=trial.number,
        trial_id=trial._trial_id,  # noqa: SLF001
        state=STATES[trial.state.name],
        params=trial.params,
        num_params=task.architecture.num_params() if task else attrs.get("num_params"),
        val_accuracy=curve[-1].val_accuracy if curve else None,
        val_loss=curve[-1].val_loss if curve else None,
        curve=curve,
        reason=attrs.get("reason"),
        is_over_budget=is_over_budget(trial),
        rejected=attrs.get("rejected", 0),
        crashes=attrs.get("deaths", 0),
        attempt=attrs.get(ATTEMPT_ATTR),
        run_id=run.run_id if run else None,
        model_id=run.model_id if run else None,
        started=trial.datetime_start,
        completed=trial.datetime_complete,
        device=attrs.get("device"),
        version=attrs.get(VERSION_ATTR),
        traceback=attrs.get("traceback"),
        task=task,
        test_accuracy=test_accuracy,
        test_loss=test_loss,
    )


def is_over_budget(trial: FrozenTrial) -> bool:
    """Whether the trial was rejected before training; such a trial takes no slot.

    Version 0.1 stored the reason only, not the attribute.
    """
    old_reason = str(trial.user_attrs.get("reason")).startswith("over budget")
    return trial.state == TrialState.PRUNED and trial.user_attrs.get(OVER_BUDGET_ATTR, old_reason)
