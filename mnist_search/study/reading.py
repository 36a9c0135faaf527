"""From the store's rows to facts."""

from __future__ import annotations

from typing import Any

import optuna
import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState

from experiments import Experiment
from mnist_search.errors import NotFound, UnusableConfiguration
from mnist_search.facts import OVER_BUDGET, STATES, StudyFacts, TrialFacts
from mnist_search.study.store import Store, mirrored

EXPERIMENT, TARGET, UID = "experiment", "trials_target", "uid"
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


def our_studies(store: Store) -> list[optuna.Study]:
    """Every study of the store that mnist-search made, the latest last."""
    names = optuna.get_all_study_names(store.storage)
    studies = (load(store, name) for name in names)
    return [study for study in studies if EXPERIMENT in study.user_attrs]


def stored_experiment(study: optuna.Study) -> Experiment:
    """The definition that a study was begun with.

    Raises:
        UnusableConfiguration: a study that this mnist-search cannot continue.
    """
    text = study.user_attrs.get(EXPERIMENT)
    if text is None:
        raise UnusableConfiguration(
            f"study {study.study_name!r} was not made by mnist-search; begin another with --study NAME"
        )
    try:
        return Experiment.from_json(text)
    except ValueError as error:
        raise UnusableConfiguration(
            f"study {study.study_name!r} cannot be read: {error}; try a newer mnist-search"
        ) from error


def study_facts(store: Store, study: optuna.Study) -> StudyFacts:
    """The study as it stands."""
    uid = str(study.user_attrs[UID])
    ours = sa.select(mirrored).where(mirrored.c.study_uid == uid)
    with store.engine.connect() as connection:
        held = {row.trial_id: row for row in connection.execute(ours)}
    trials = study.get_trials(deepcopy=False)
    return StudyFacts(
        name=study.study_name,
        uid=uid,
        experiment=stored_experiment(study),
        trials_target=int(study.user_attrs[TARGET]),
        trials=[trial_facts(trial, held.get(trial._trial_id)) for trial in trials],  # noqa: SLF001
    )


def trial_facts(trial: FrozenTrial, held: Any = None) -> TrialFacts:
    """One trial, with the row that tells what the tracker holds of it."""
    attrs = trial.user_attrs
    curve = attrs.get("curve") or []
    return TrialFacts(
        number=trial.number,
        trial_id=trial._trial_id,  # noqa: SLF001
        state=STATES[trial.state.name],
        genes=trial.params,
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
