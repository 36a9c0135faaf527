"""Copy studies to another store, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
import sqlalchemy as sa

from mnist_search.errors import StudyConflict, UsageError
from mnist_search.records import TrialRecord
from mnist_search.storage import studies, tables
from mnist_search.storage.database import Store
from mnist_search.storage.deletion import check_is_idle
from mnist_search.storage.studies import UID_ATTR

NOT_COPIED = {tables.leases.name, "trial_heartbeats"}
"""Tables of running trials."""


def copy_studies(source: Store, target: Store, copied: Sequence[optuna.Study]) -> list[optuna.Study]:
    """Copy studies of mnist-search; both stores are open for writing, and the source keeps the studies.

    A copy has the same numbers, params, values, epochs, attributes, weights and links to MLflow. An
    interrupted copy leaves nothing in the target.

    Returns:
        The studies that were copied, without those that the target has already.

    Raises:
        UsageError: both stores are the same.
        StudyConflict: the target has another study of this name, or other trials of this study.
        TryAgain: a worker trains a trial of a study.
    """
    if source.is_same(target):
        raise UsageError(f"the study is in {target}; name another store with --to URL")
    with source.lock("claim"), target.lock("claim"):
        for study in copied:
            check_is_idle(source, study)
        missing = [study for study in copied if not _is_present(source, target, study)]
        ids = [(study._study_id, str(study.user_attrs[UID_ATTR])) for study in missing]  # noqa: SLF001
        old, new = _reflect(source), _reflect(target)
        with source.engine.begin() as reader, target.engine.begin() as writer:
            for study_id, uid in ids:
                _Copy(reader, writer, old, new, uid).copy(study_id)
    return missing


def _is_present(source: Store, target: Store, study: optuna.Study) -> bool:
    """Whether the target has a study with all its trials; StudyConflict if it has another one of its name."""
    name = study.study_name
    found = studies.find(target, name)
    if found is None:
        return False
    if found.user_attrs.get(UID_ATTR) != study.user_attrs[UID_ATTR]:
        raise StudyConflict(f"{target} has another study {name!r}; delete it there, or name another store")
    if _trials(source, study) != _trials(target, found):
        raise StudyConflict(
            f"{target} has other trials of study {name!r}; delete it in one of the stores, then copy it again"
        )
    return True


def _trials(store: Store, study: optuna.Study) -> list[TrialRecord]:
    return [replace(trial, trial_id=0) for trial in studies.trial_records(store, study)]


def _reflect(store: Store) -> dict[str, sa.Table]:
    """The tables of studies and trials by name, with the column types of the database."""
    metadata = sa.MetaData()
    metadata.reflect(store.engine)
    return {
        name: table
        for name, table in metadata.tables.items()
        if {"study_id", "trial_id"} & set(table.columns.keys()) and name not in NOT_COPIED
    }


@dataclass(frozen=True, slots=True)
class _Copy:
    """Copies the rows of one study; the databases give new ids to the study and its trials."""

    reader: sa.Connection
    writer: sa.Connection
    old: Mapping[str, sa.Table]
    new: Mapping[str, sa.Table]
    uid: str

    def copy(self, study_id: int) -> None:
        studies_table, trials_table = self.old["studies"], self.old["trials"]
        rows = self._read(sa.select(studies_table).where(studies_table.c.study_id == study_id))
        study_ids = self._insert_new("studies", "study_id", rows)
        of_study = trials_table.c.study_id == study_id
        rows = self._read(sa.select(trials_table).where(of_study).order_by(trials_table.c.number))
        trial_ids = self._insert_new(
            "trials", "trial_id", [{**row, "study_id": study_ids[study_id]} for row in rows]
        )
        for name in self.old.keys() - {"studies", "trials"}:
            table = self.old[name]
            if "study_uid" in table.c:  # ids of deleted trials can have rows
                self._copy_rows(name, "trial_id", trial_ids, table.c.study_uid == self.uid)
            elif "trial_id" in table.c:
                ids = sa.select(trials_table.c.trial_id).where(of_study)
                self._copy_rows(name, "trial_id", trial_ids, table.c.trial_id.in_(ids))
            else:
                self._copy_rows(name, "study_id", study_ids, table.c.study_id == study_id)

    def _copy_rows(
        self, name: str, key: str, ids: Mapping[int, int], condition: sa.ColumnElement[bool]
    ) -> None:
        """Copy the rows of a table under a condition, with new ids, in place of rows that deleted trials left."""
        table = self.new[name]
        is_ours = "study_uid" in table.c
        generated = set() if is_ours else {column.name for column in table.primary_key}
        rows = [
            {column: value for column, value in row.items() if column not in generated} | {key: ids[row[key]]}
            for row in self._read(sa.select(self.old[name]).where(condition))
            if row[key] in ids
        ]
        if not rows:
            return
        if is_ours:
            left = sa.delete(table).where(table.c[key] == sa.bindparam("id"))
            self.writer.execute(left, [{"id": new} for new in {row[key] for row in rows}])
        self.writer.execute(sa.insert(table), rows)

    def _insert_new(self, name: str, key: str, rows: Sequence[Mapping[str, Any]]) -> dict[int, int]:
        """Insert rows with new keys; the new key by the old one."""
        if not rows:
            return {}
        table = self.new[name]
        values = [{column: value for column, value in row.items() if column != key} for row in rows]
        statement = sa.insert(table).returning(table.c[key], sort_by_parameter_order=True)
        new_keys = self.writer.execute(statement, values).scalars()
        return dict(zip((row[key] for row in rows), new_keys, strict=True))

    def _read(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        return [dict(row) for row in self.reader.execute(query).mappings()]
