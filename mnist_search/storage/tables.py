"""Tables of mnist-search in the study store, in addition to Optuna's.

SQLite reuses ids of deleted rows, so rows that belong to a trial also name the study's uid.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()

leases = sa.Table(
    "mnist_search_leases",
    metadata,
    sa.Column("trial_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("owner", sa.String(64), nullable=False),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("process_started", sa.Float, nullable=False),
    sa.Column("beat", sa.Float, nullable=False),
    sa.Column("supervisor_pid", sa.Integer),
    sa.Column("supervisor_started", sa.Float),
)
"""The process that works on a trial; ``beat`` is the last renewal by the database's clock."""

epochs = sa.Table(
    "mnist_search_epochs",
    metadata,
    sa.Column("trial_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("attempt", sa.String(64), primary_key=True),
    sa.Column("epoch", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("study_uid", sa.String(64), nullable=False, index=True),
    *(sa.Column(name, sa.Double) for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy")),
    *(sa.Column(name, sa.Double) for name in ("learning_rate", "seconds", "samples_per_second")),
    sa.Column("timestamp", sa.BigInteger),
)
"""Metrics of every trained epoch, see ``EpochMetrics``; ``attempt`` is the owner of the trial's lease."""

weights = sa.Table(
    "mnist_search_weights",
    metadata,
    sa.Column("trial_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("study_uid", sa.String(64), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("safetensors", sa.LargeBinary, nullable=False),
)
"""Trained weights of the best trials and of final trials."""

tracked_runs = sa.Table(
    "mnist_search_mirrored",
    metadata,
    sa.Column("trial_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("study_uid", sa.String(64), nullable=False),
    sa.Column("run_id", sa.String(64), nullable=False),
    sa.Column("model_id", sa.String(64)),
)
"""MLflow run and logged model of a trial."""

old_finals = sa.table(
    "mnist_search_trainings",
    *map(sa.column, ("id", "series", "name", "seed", "task", "deaths", "result", "run_id")),
)
"""Final trials in a store of version 0.1; their weights and leases have the key ``-id``."""

trial_user_attributes = sa.table(
    "trial_user_attributes", sa.column("trial_id"), sa.column("key"), sa.column("value_json")
)
intermediate_values = sa.table("trial_intermediate_values", sa.column("trial_id"))
"""Tables of Optuna that are written in one transaction with ours."""

trials = sa.table("trials", sa.column("trial_id"), sa.column("study_id"), sa.column("state"))
"""Optuna's table of trials, read without its objects, which takes ten times as long."""


def replacement(table: sa.Table, row: dict[str, Any]) -> list[sa.Executable]:
    """The statements that insert a row in place of an earlier one with its primary key."""
    key = (column == row[column.name] for column in table.primary_key)
    return [sa.delete(table).where(*key), sa.insert(table).values(row)]
