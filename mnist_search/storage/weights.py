"""Trained weights in the store, each with its SHA-256 digest."""

from __future__ import annotations

import hashlib
import logging
from typing import Any

import sqlalchemy as sa

from mnist_search.errors import UnusableConfiguration
from mnist_search.storage import tables
from mnist_search.storage.database import Store
from mnist_search.storage.tables import weights

logger = logging.getLogger(__name__)


def replacement(trial_id: int, study_uid: str, safetensors: bytes) -> list[sa.Executable]:
    """The statements that store the weights of a trial in place of earlier ones."""
    row = {"trial_id": trial_id, "study_uid": study_uid, "safetensors": safetensors}
    return tables.replacement(weights, row | {"sha256": hashlib.sha256(safetensors).hexdigest()})


def of_study(store: Store, study_uid: str) -> dict[int, bytes]:
    """Weights of a study as safetensors, by trial id, without damaged ones, which are logged as warnings."""
    with store.engine.connect() as connection:
        rows = connection.execute(sa.select(weights).where(weights.c.study_uid == study_uid)).all()
    for row in rows:
        if not _is_intact(row):
            logger.warning(
                "the weights of trial %d in %s are damaged and are left out; restore the store from a backup",
                store.storage.get_trial(row.trial_id).number,
                store,
            )
    return {row.trial_id: bytes(row.safetensors) for row in rows if _is_intact(row)}


def of_trial(store: Store, trial_id: int, description: str) -> bytes:
    """Weights of one trial as safetensors; UnusableConfiguration if they are missing or damaged."""
    with store.engine.connect() as connection:
        row = connection.execute(sa.select(weights).where(weights.c.trial_id == trial_id)).first()
    if row is None or not _is_intact(row):
        raise UnusableConfiguration(
            f"the weights of {description} in {store} are missing or damaged; restore the store from a backup"
        )
    return bytes(row.safetensors)


def _is_intact(row: Any) -> bool:
    return hashlib.sha256(row.safetensors).hexdigest() == str(row.sha256)
