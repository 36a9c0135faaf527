"""Stores of version 0.1: read their finals, and convert them when a store is opened for writing.

Version 0.1 kept epochs in an attribute, and finals in a table of their own, which its earliest stores
lack. A converted store has study configurations of a newer format, so that version 0.1 refuses it.
"""

from __future__ import annotations

import json
import platform
import time
import uuid
from collections import defaultdict
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import psutil
import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState, create_trial

from experiments import StudyConfig
from mnist_search.errors import TryAgain
from mnist_search.records import EpochMetrics, FinalsRecord, FinalTask, TrialRecord
from mnist_search.storage import studies
from mnist_search.storage.studies import ATTEMPT_ATTR, CONFIG_ATTR, TASK_ATTR, UID_ATTR, VERSION_ATTR
from mnist_search.storage.tables import epochs, leases, metadata, old_finals, tracked_runs, weights

if TYPE_CHECKING:
    from mnist_search.storage.database import Store

OLD_REPRODUCTIONS, OLD_FINALS = "reproduction", "final/"
"""Queue of the baselines; beginning of ``final/STUDY-UID/ROUND``."""

OLD_LEASE_TIMEOUT = 120.0


def old_records(store: Store) -> dict[str, FinalsRecord]:
    """Finals in the table of version 0.1, by the uid of their search study or ``reproduction``."""
    return {
        uid: FinalsRecord(name=uid, uid=uid, trials=[record for _, record in trials])
        for uid, trials in _old_trials(store).items()
    }


def _old_trials(store: Store) -> dict[str, list[tuple[FrozenTrial, TrialRecord]]]:
    """Final trials of version 0.1 as trials of Optuna, without their epochs, and as records."""
    trials: defaultdict[str, list[tuple[FrozenTrial, TrialRecord]]] = defaultdict(list)
    with store.engine.connect() as connection:
        for row in connection.execute(sa.select(old_finals).order_by(old_finals.c.id)):
            uid, _, round_number = row.series.removeprefix(OLD_FINALS).partition("/")
            curve = [_epoch(each) for each in json.loads(row.result or "{}").get("curve", ())]
            trial = _optuna_trial(row, int(round_number or 1), curve)
            trial.number, trial._trial_id = len(trials[uid]), -row.id  # noqa: SLF001
            trials[uid].append((trial, studies.trial_record(trial, curve, {"run_id": row.run_id})))
    return trials


def _epoch(plain: dict[str, Any]) -> EpochMetrics:
    return EpochMetrics.from_dict({name.replace("test_", "val_"): value for name, value in plain.items()})


def _optuna_trial(row: Any, round_number: int, curve: list[EpochMetrics]) -> FrozenTrial:
    task, result = json.loads(row.task), json.loads(row.result or "{}")
    final = {"name": row.name, "seed": row.seed, "evaluate": task.pop("judged"), "round": round_number}
    attributes = {
        TASK_ATTR: FinalTask.from_dict(task | final).to_dict(),
        ATTEMPT_ATTR: f"0.1/{row.id}",
        VERSION_ATTR: result.get("version"),
        "deaths": row.deaths or None,
        "device": result.get("device"),
        "reason": result.get("failure"),
    }
    is_complete = bool(result) and attributes["reason"] is None
    trial = create_trial(
        state=TrialState.COMPLETE if is_complete else TrialState.FAIL if result else TrialState.WAITING,
        values=[result["test_accuracy"], result["test_loss"]] if is_complete else None,
        user_attrs={name: value for name, value in attributes.items() if value is not None},
    )
    if result:
        completed = curve[-1].timestamp / 1000 if curve else time.time()
        trial.datetime_complete = datetime.fromtimestamp(completed)  # noqa: DTZ006 - as Optuna stores it
        trial.datetime_start = trial.datetime_complete - timedelta(seconds=result.get("seconds", 0.0))
    return trial


def convert(store: Store) -> None:
    """Convert a store of version 0.1, under its claim lock; continues an interrupted conversion.

    Raises:
        TryAgain: a process of version 0.1 trains finals.
    """
    _add_columns(store)
    searches = studies.mnist_search_studies(store)
    for study in searches:
        with suppress(ValueError):  # a newer or damaged study, which its verbs report
            text = StudyConfig.from_json(study.user_attrs[CONFIG_ATTR]).to_json()
            if text != study.user_attrs[CONFIG_ATTR]:
                study.set_user_attr(CONFIG_ATTR, text)
    if not sa.inspect(store.engine).has_table(old_finals.name):
        metadata.create_all(store.engine)  # last: a store with every table is not converted again
        return
    _check_no_final_runs(store)
    metadata.create_all(store.engine)
    names = {str(study.user_attrs[UID_ATTR]): study.study_name for study in searches}
    for uid, trials in _old_trials(store).items():
        _convert_finals(store, uid, names.get(uid, f"deleted-{uid[:8]}"), trials)
    with store.engine.begin() as connection:
        connection.execute(sa.delete(weights).where(weights.c.trial_id < 0))
        connection.execute(sa.delete(leases).where(leases.c.trial_id < 0))
        connection.exec_driver_sql(f"DROP TABLE {old_finals.name}")


def _add_columns(store: Store) -> None:
    present = {column["name"] for column in sa.inspect(store.engine).get_columns(leases.name)}
    with store.engine.begin() as connection:
        for column in leases.columns:
            if column.name not in present:
                kind = column.type.compile(store.engine.dialect)
                connection.execute(sa.text(f"ALTER TABLE {leases.name} ADD COLUMN {column.name} {kind}"))


def _check_no_final_runs(store: Store) -> None:
    recent = sa.select(leases).where(leases.c.trial_id < 0, leases.c.beat > store.now() - OLD_LEASE_TIMEOUT)
    with store.engine.connect() as connection:
        rows = connection.execute(recent).all()
    if any(row.host != platform.node() or psutil.pid_exists(row.pid) for row in rows):
        raise TryAgain(
            f"a process of version 0.1 trains finals in {store}; end it, then run the same command"
        )


def _convert_finals(
    store: Store, uid: str, search: str, trials: list[tuple[FrozenTrial, TrialRecord]]
) -> None:
    from mnist_search.storage.finals import BASELINE_FINALS, create_study, finals_uid, name_of_finals

    if uid == OLD_REPRODUCTIONS:  # version 0.1 had one uid for the baselines' finals of all stores
        study = create_study(store, BASELINE_FINALS, uuid.uuid4().hex)
    else:
        study = create_study(store, name_of_finals(search), finals_uid(uid))
    stored = {trial.user_attrs[ATTEMPT_ATTR] for trial in study.get_trials(deepcopy=False)}
    for trial, record in trials:
        if record.attempt not in stored:
            study.add_trial(trial)
    ids = {t.user_attrs[ATTEMPT_ATTR]: t._trial_id for t in study.get_trials(deepcopy=False)}  # noqa: SLF001
    for _, record in trials:
        _copy_rows(store, str(study.user_attrs[UID_ATTR]), record, ids[record.attempt])


def _copy_rows(store: Store, study_uid: str, trial: TrialRecord, trial_id: int) -> None:
    key = {"trial_id": trial_id, "study_uid": study_uid}
    with store.engine.begin() as connection:
        old = connection.execute(sa.select(weights).where(weights.c.trial_id == trial.trial_id)).mappings()
        rows: dict[sa.Table, list[dict[str, Any]]] = {
            epochs: [{**key, "attempt": trial.attempt, **asdict(metrics)} for metrics in trial.curve],
            tracked_runs: [{**key, "run_id": trial.run_id, "model_id": None}] if trial.run_id else [],
            weights: [{**row, **key} for row in old],
        }
        for table, new in rows.items():
            connection.execute(sa.delete(table).where(table.c.trial_id == trial_id))
            if new:
                connection.execute(sa.insert(table), new)
