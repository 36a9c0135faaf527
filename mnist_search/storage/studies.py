"""From the store's rows to facts."""

from __future__ import annotations

from typing import Any

import optuna
import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState

from experiments import StudyConfig
from mnist_search.errors import NotFound, UnusableConfiguration
from mnist_search.records import OVER_BUDGET, STATES, StudyRecord, TrialRecord
from mnist_search.storage.database import Store, tracked_runs

CONFIG_ATTR, N_TRIALS_ATTR, UID_ATTR = "experiment", "trials_target", "uid"
"""Attributes that make an Optuna study ours."""


def load(store: Store, name: str) -> optuna.Study:
    """The Optuna study of this name.

    Raises:
        NotFound: no such study in the store.
    """
    try:
        return optuna.load_study(study_name=name, storage=store.storage)
    except KeyError:
        raise NotFound(
            f"no study {name!r} in {store}; mnist-search studies lists those that it holds"
        ) from None


def mnist_search_studies(store: Store) -> list[optuna.Study]:
    """Every study of the store that mnist-search made, the latest last."""
    names = optuna.get_all_study_names(store.storage)
    studies = (load(store, name) for name in names)
    return [study for study in studies if CONFIG_ATTR in study.user_attrs]


def stored_config(study: optuna.Study) -> StudyConfig:
    """The definition that a study was begun with.

    Raises:
        UnusableConfiguration: a study that this mnist-search cannot continue.
    """
    text = study.user_attrs.get(CONFIG_ATTR)
    if text is None:
        raise UnusableConfiguration(
            f"study {study.study_name!r} was not made by mnist-search; begin another with --study NAME"
        )
    try:
        return StudyConfig.from_json(text)
    except ValueError as error:
        raise UnusableConfiguration(
            f"study {study.study_name!r} cannot be read: {error}; try a newer mnist-search"
        ) from error


def study_record(store: Store, study: optuna.Study) -> StudyRecord:
    """The study as it stands."""
    uid = str(study.user_attrs[UID_ATTR])
    ours = sa.select(tracked_runs).where(tracked_runs.c.study_uid == uid)
    with store.engine.connect() as connection:
        held = {row.trial_id: row for row in connection.execute(ours)}
    trials = study.get_trials(deepcopy=False)
    return StudyRecord(
        name=study.study_name,
        uid=uid,
        config=stored_config(study),
        n_trials=int(study.user_attrs[N_TRIALS_ATTR]),
        trials=[trial_record(trial, held.get(trial._trial_id)) for trial in trials],  # noqa: SLF001
    )


def trial_record(trial: FrozenTrial, held: Any = None) -> TrialRecord:
    """One trial, with the row that tells what the tracker holds of it."""
    attrs = trial.user_attrs
    curve = attrs.get("curve") or []
    return TrialRecord(
        number=trial.number,
        trial_id=trial._trial_id,  # noqa: SLF001
        state=STATES[trial.state.name],
        params=trial.params,
        num_params=attrs.get("num_params"),
        val_accuracy=curve[-1]["val_accuracy"] if curve else None,
        val_loss=curve[-1]["val_loss"] if curve else None,
        curve=curve,
        reason=attrs.get("reason"),
        rejected=attrs.get("rejected", 0),
        deaths=attrs.get("deaths", 0),
        run_id=held.run_id if held else None,
        model_id=held.model_id if held else None,
        started=trial.datetime_start,
        completed=trial.datetime_complete,
        device=attrs.get("device"),
        traceback=attrs.get("traceback"),
    )


def is_over_budget(trial: FrozenTrial) -> bool:
    """Whether the budget kept a trial from training, so that it takes no place."""
    reason = str(trial.user_attrs.get("reason"))
    return trial.state == TrialState.PRUNED and reason.startswith(OVER_BUDGET)
