"""Stores of version 0.1: read their finals, and convert them when a store is opened for writing.

Version 0.1 kept finals in a table of their own and epochs in an attribute. A converted store has study
configurations of a newer format, so that version 0.1 refuses it.
"""

from __future__ import annotations

import json
import platform
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import optuna
import psutil
import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState, create_trial

from experiments import StudyConfig
from mnist_search.errors import TryAgain
from mnist_search.records import EpochMetrics, FinalsRecord, FinalTask, TrialRecord
from mnist_search.storage.studies import ATTEMPT_ATTR, CONFIG_ATTR, TASK_ATTR, UID_ATTR, VERSION_ATTR
from mnist_search.storage.tables import epochs, leases, old_finals, tracked_runs, weights
from search_space.serialization import from_dict

if TYPE_CHECKING:
    from mnist_search.storage.database import Store

OLD_REPRODUCTIONS, OLD_FINALS = "reproduction", "final/"
"""Queue of the baselines; beginning of ``final/STUDY-UID/ROUND``."""

OLD_LEASE_TIMEOUT = 120.0


def old_records(store: Store) -> dict[str, FinalsRecord]:
    """Finals in the table of version 0.1, by the uid of their search study or ``reproduction``."""
    trials: defaultdict[str, list[TrialRecord]] = defaultdict(list)
    with store.engine.connect() as connection:
        for row in connection.execute(sa.select(old_finals).order_by(old_finals.c.id)):
            series = row.series.removeprefix(OLD_FINALS).partition("/")
            trials[series[0]].append(_trial_record(row, int(series[2] or 1), len(trials[series[0]])))
    return {uid: FinalsRecord(name=uid, uid=uid, trials=records) for uid, records in trials.items()}


def _trial_record(row: Any, round_number: int, number: int) -> TrialRecord:
    task, result = json.loads(row.task), json.loads(row.result or "{}")
    curve = [_epoch(each) for each in result.get("curve", ())]
    completed = curve[-1].timestamp / 1000 if curve else time.time()
    failure = result.get("failure")
    return TrialRecord(
        number=number,
        trial_id=-row.id,
        state="WAITING" if not result else "FAIL" if failure else "COMPLETE",
        params={},
        num_params=from_dict(task["architecture"]).num_params(),
        val_accuracy=curve[-1].val_accuracy if curve else None,
        val_loss=curve[-1].val_loss if curve else None,
        curve=curve,
        reason=failure,
        crashes=row.deaths,
        attempt=f"0.1/{row.id}",
        run_id=row.run_id,
        started=_local_time(completed - result.get("seconds", 0.0)),
        completed=_local_time(completed),
        device=result.get("device"),
        version=result.get("version"),
        task=FinalTask(
            name=row.name,
            seed=row.seed,
            architecture=from_dict(task["architecture"]),
            training=from_dict(task["training"]),
            evaluate=task["judged"],
            round=round_number,
        ),
        test_accuracy=result.get("test_accuracy"),
        test_loss=result.get("test_loss"),
    )


def _local_time(seconds: float) -> datetime:
    """Seconds since 1970 as Optuna's naive local time."""
    return datetime.fromtimestamp(seconds, UTC).astimezone().replace(tzinfo=None)


def _epoch(plain: dict[str, Any]) -> EpochMetrics:
    return EpochMetrics.from_dict({name.replace("test_", "val_"): value for name, value in plain.items()})


def convert(store: Store) -> None:
    """Convert a store of version 0.1, under its claim lock; continues an interrupted conversion.

    Raises:
        TryAgain: a process of version 0.1 trains finals.
    """
    _add_columns(store)
    for name in optuna.get_all_study_names(store.storage):
        study = optuna.load_study(study_name=name, storage=store.storage)
        if CONFIG_ATTR in study.user_attrs:
            _raise_format(study)
    _check_no_final_runs(store)
    for uid, record in old_records(store).items():
        _convert_finals(store, uid, record)
    with store.engine.begin() as connection:
        connection.execute(sa.delete(weights).where(weights.c.trial_id < 0))
        connection.execute(sa.delete(leases).where(leases.c.trial_id < 0))
        old_finals.drop(connection)


def _add_columns(store: Store) -> None:
    present = {column["name"] for column in sa.inspect(store.engine).get_columns(leases.name)}
    with store.engine.begin() as connection:
        for column in leases.columns:
            if column.name not in present:
                kind = column.type.compile(store.engine.dialect)
                connection.execute(sa.text(f"ALTER TABLE {leases.name} ADD COLUMN {column.name} {kind}"))


def _raise_format(study: optuna.Study) -> None:
    try:
        text = StudyConfig.from_json(study.user_attrs[CONFIG_ATTR]).to_json()
    except ValueError:  # a newer or damaged study, which its verbs report
        return
    if text != study.user_attrs[CONFIG_ATTR]:
        study.set_user_attr(CONFIG_ATTR, text)


def _check_no_final_runs(store: Store) -> None:
    recent = sa.select(leases).where(leases.c.trial_id < 0, leases.c.beat > store.now() - OLD_LEASE_TIMEOUT)
    with store.engine.connect() as connection:
        rows = connection.execute(recent).all()
    if any(row.host != platform.node() or psutil.pid_exists(row.pid) for row in rows):
        raise TryAgain(
            f"a process of version 0.1 trains finals in {store}; end it, then run the same command"
        )


def _convert_finals(store: Store, uid: str, record: FinalsRecord) -> None:
    from mnist_search.storage.finals import BASELINE_FINALS, create_study, finals_uid, name_of_finals

    searches = {
        str(s.user_attrs[UID_ATTR]): s.study_name
        for s in optuna.get_all_study_summaries(store.storage)
        if CONFIG_ATTR in s.user_attrs
    }
    name = name_of_finals(searches.get(uid, f"deleted-{uid[:8]}"))
    if uid == OLD_REPRODUCTIONS:
        name = BASELINE_FINALS
    # Version 0.1 had one uid for the baselines' finals of all stores.
    study = create_study(store, name, uuid.uuid4().hex if uid == OLD_REPRODUCTIONS else finals_uid(uid))
    stored = {trial.user_attrs[ATTEMPT_ATTR] for trial in study.get_trials(deepcopy=False)}
    for trial in record.trials:
        if trial.attempt not in stored:
            study.add_trial(_optuna_trial(trial))
    ids = {t.user_attrs[ATTEMPT_ATTR]: t._trial_id for t in study.get_trials(deepcopy=False)}  # noqa: SLF001
    for trial in record.trials:
        _copy_rows(store, str(study.user_attrs[UID_ATTR]), trial, ids[trial.attempt])


def _optuna_trial(trial: TrialRecord) -> FrozenTrial:
    assert trial.task is not None
    attributes = {
        TASK_ATTR: trial.task.to_dict(),
        ATTEMPT_ATTR: trial.attempt,
        VERSION_ATTR: trial.version,
        "device": trial.device,
        "reason": trial.reason,
    }
    converted = create_trial(
        state=TrialState[trial.state],
        values=[trial.test_accuracy or 0.0, trial.test_loss or 0.0] if trial.state == "COMPLETE" else None,
        user_attrs={name: value for name, value in attributes.items() if value is not None},
    )
    if trial.is_finished:
        converted.datetime_start, converted.datetime_complete = trial.started, trial.completed
    return converted


def _copy_rows(store: Store, study_uid: str, trial: TrialRecord, trial_id: int) -> None:
    key = {"trial_id": trial_id, "study_uid": study_uid}
    rows = [{**key, "attempt": trial.attempt, **asdict(metrics)} for metrics in trial.curve]
    run = [{**key, "run_id": trial.run_id, "model_id": None}] if trial.run_id else []
    with store.engine.begin() as connection:
        old = connection.execute(sa.select(weights).where(weights.c.trial_id == trial.trial_id)).mappings()
        kept = [{**row, **key} for row in old]
        tables: Sequence[tuple[sa.Table, list[dict[str, Any]]]] = (
            (epochs, rows), (tracked_runs, run), (weights, kept),
        )  # fmt: skip
        for table, new in tables:
            connection.execute(sa.delete(table).where(table.c.trial_id == trial_id))
            if new:
                connection.execute(sa.insert(table), new)
