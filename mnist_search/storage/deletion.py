"""Delete a study with its finals."""

from __future__ import annotations

import optuna
import sqlalchemy as sa
from optuna.trial import TrialState

from mnist_search.errors import TryAgain, UsageError
from mnist_search.storage import finals, leases, studies, tables
from mnist_search.storage.database import Store
from mnist_search.storage.studies import CONFIG_ATTR, KIND_ATTR, UID_ATTR


def with_finals(store: Store, name: str) -> list[optuna.Study]:
    """The study of this name, after its finals if it has any.

    Raises:
        NotFound: the store has none of this name.
        UsageError: mnist-search did not create it.
    """
    study = studies.load(store, name)
    if not {CONFIG_ATTR, KIND_ATTR} & study.user_attrs.keys():
        raise UsageError(
            f"{name!r} is not a study of mnist-search; use a command of Optuna, such as optuna delete-study"
        )
    of_study = studies.find(store, finals.name_of_finals(name))
    is_search = CONFIG_ATTR in study.user_attrs
    has_finals = (
        is_search
        and of_study is not None
        and of_study.user_attrs.get(UID_ATTR) == finals.finals_uid(str(study.user_attrs[UID_ATTR]))
    )
    return [of_study, study] if has_finals and of_study else [study]


def delete_studies(store: Store, deleted: list[optuna.Study]) -> None:
    """Delete studies with their epochs, weights, leases and links to MLflow, each in one transaction.

    Raises:
        TryAgain: a worker trains a trial of one of them; nothing is deleted.
    """
    with store.lock("claim"):
        for study in deleted:
            check_is_idle(store, study)
        for study in deleted:
            _delete(store, study)


def check_is_idle(store: Store, study: optuna.Study) -> None:
    """Raise TryAgain if a worker trains a trial of the study."""
    statuses = leases.statuses(store)
    trials = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    active = [trial.number for trial in trials if statuses.get(trial._trial_id) == "active"]  # noqa: SLF001
    if active:
        raise TryAgain(
            f"a worker trains trial {active[0]} of {study.study_name}; stop its command with Ctrl-C, then "
            "run the same command again"
        )


def _delete(store: Store, study: optuna.Study) -> None:
    uid, study_id = study.user_attrs[UID_ATTR], study._study_id  # noqa: SLF001
    of_study = sa.select(tables.trials.c.trial_id).where(tables.trials.c.study_id == study_id)
    by_uid = (tables.epochs, tables.weights, tables.tracked_runs)
    changes = [sa.delete(table).where(table.c.study_uid == uid) for table in by_uid]
    changes.append(sa.delete(tables.leases).where(tables.leases.c.trial_id.in_(of_study)))
    session = store.storage.scoped_session()
    try:
        for change in changes:
            session.execute(change)
        store.storage.delete_study(study_id)  # joins the transaction and commits it
    except BaseException:
        session.rollback()
        raise
