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
)
"""The process that works on a trial; ``beat`` is the last renewal by the database's clock."""

weights = sa.Table(
    "mnist_search_weights",
    metadata,
    sa.Column("trial_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("study_uid", sa.String(64), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("safetensors", sa.LargeBinary, nullable=False),
)
"""Trained weights of the best trials."""

tracked_runs = sa.Table(
    "mnist_search_mirrored",
    metadata,
    sa.Column("trial_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("study_uid", sa.String(64), nullable=False),
    sa.Column("run_id", sa.String(64), nullable=False),
    sa.Column("model_id", sa.String(64)),
)
"""MLflow run and logged model of a trial."""

trainings = sa.Table(
    "mnist_search_trainings",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("series", sa.String(100), nullable=False),
    sa.Column("name", sa.String(100), nullable=False),
    sa.Column("seed", sa.Integer, nullable=False),
    sa.Column("task", sa.Text, nullable=False),
    sa.Column("deaths", sa.Integer, nullable=False, default=0),
    sa.Column("result", sa.Text),
    sa.Column("run_id", sa.String(64)),
    sa.UniqueConstraint("series", "name", "seed"),
)
"""Final training runs; leases and weights use ``-id`` as their trial_id."""
