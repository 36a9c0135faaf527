"""Tables of mnist-search in the study store, in addition to Optuna's.

SQLite reuses ids of deleted rows, so rows that belong to a trial also name the study's uid.
"""

from __future__ import annotations

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
    sa.Column("train_loss", sa.Double),
    sa.Column("train_accuracy", sa.Double),
    sa.Column("val_loss", sa.Double),
    sa.Column("val_accuracy", sa.Double),
    sa.Column("learning_rate", sa.Double),
    sa.Column("seconds", sa.Double),
    sa.Column("samples_per_second", sa.Double),
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

old_finals = sa.Table(
    "mnist_search_trainings",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("series", sa.String(100)),
    sa.Column("name", sa.String(100)),
    sa.Column("seed", sa.Integer),
    sa.Column("task", sa.Text),
    sa.Column("deaths", sa.Integer),
    sa.Column("result", sa.Text),
    sa.Column("run_id", sa.String(64)),
)
"""Final trials in a store of version 0.1; their weights and leases have the key ``-id``."""

trial_user_attributes = sa.table(
    "trial_user_attributes", sa.column("trial_id"), sa.column("key"), sa.column("value_json")
)
intermediate_values = sa.table("trial_intermediate_values", sa.column("trial_id"))
"""Tables of Optuna that are written in one transaction with ours."""

trials = sa.table("trials", sa.column("trial_id"), sa.column("study_id"), sa.column("state"))
"""Optuna's table of trials, read without its objects, which takes ten times as long."""
