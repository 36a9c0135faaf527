"""Read studies of the store as records."""

from __future__ import annotations

from typing import Any

import optuna
import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState

from experiments import StudyConfig
from mnist_search.errors import NotFound, UnusableConfiguration
from mnist_search.records import STATES, EpochMetrics, StudyRecord, TrialRecord
from mnist_search.storage.database import Store
from mnist_search.storage.tables import tracked_runs

CONFIG_ATTR, N_TRIALS_ATTR, UID_ATTR = "experiment", "trials_target", "uid"
"""Attributes of an Optuna study that mnist-search created."""

OVER_BUDGET_ATTR = "over_budget"
"""Attribute of a trial that the budget rejected before training."""


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
    """Every study of the store that mnist-search created, the latest last."""
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
            f"mnist-search did not create study {study.study_name!r}; create another with --study NAME"
        )
    try:
        return StudyConfig.from_json(text)
    except ValueError as error:
        raise UnusableConfiguration(
            f"cannot read study {study.study_name!r}: {error}; try a newer mnist-search"
        ) from error


def study_record(store: Store, study: optuna.Study) -> StudyRecord:
    """The study with its trials, as stored now."""
    uid = str(study.user_attrs[UID_ATTR])
    of_study = sa.select(tracked_runs).where(tracked_runs.c.study_uid == uid)
    with store.engine.connect() as connection:
        runs = {row.trial_id: row for row in connection.execute(of_study)}
    trials = study.get_trials(deepcopy=False)
    return StudyRecord(
        name=study.study_name,
        uid=uid,
        config=stored_config(study),
        n_trials=int(study.user_attrs[N_TRIALS_ATTR]),
        trials=[trial_record(trial, runs.get(trial._trial_id)) for trial in trials],  # noqa: SLF001
    )


def trial_record(trial: FrozenTrial, run: Any = None) -> TrialRecord:
    """One trial; ``run`` is its row of ``tracked_runs``."""
    attrs = trial.user_attrs
    curve = [EpochMetrics.from_dict(epoch) for epoch in attrs.get("curve") or []]
    return TrialRecord(
        number=trial.number,
        trial_id=trial._trial_id,  # noqa: SLF001
        state=STATES[trial.state.name],
        params=trial.params,
        num_params=attrs.get("num_params"),
        val_accuracy=curve[-1].val_accuracy if curve else None,
        val_loss=curve[-1].val_loss if curve else None,
        curve=curve,
        reason=attrs.get("reason"),
        is_over_budget=is_over_budget(trial),
        rejected=attrs.get("rejected", 0),
        crashes=attrs.get("deaths", 0),
        run_id=run.run_id if run else None,
        model_id=run.model_id if run else None,
        started=trial.datetime_start,
        completed=trial.datetime_complete,
        device=attrs.get("device"),
        traceback=attrs.get("traceback"),
    )


def is_over_budget(trial: FrozenTrial) -> bool:
    """Whether the trial was rejected before training; such a trial takes no slot.

    Version 0.1 stored the reason only, not the attribute.
    """
    old_reason = str(trial.user_attrs.get("reason")).startswith("over budget")
    return trial.state == TrialState.PRUNED and trial.user_attrs.get(OVER_BUDGET_ATTR, old_reason)
