"""Trained weights in the store, each with its SHA-256 digest."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from mnist_search.errors import UnusableConfiguration
from mnist_search.storage.database import Store
from mnist_search.storage.tables import weights


def write(store: Store, trial_id: int, study_uid: str, safetensors: bytes | None) -> None:
    """Store the weights of a trial in place of earlier ones; None deletes them."""
    with store.engine.begin() as connection:
        for change in replacement(trial_id, study_uid, safetensors):
            connection.execute(change)


def replacement(trial_id: int, study_uid: str, safetensors: bytes | None) -> list[sa.Delete | sa.Insert]:
    """The statements that store the weights of a trial in place of earlier ones."""
    changes: list[sa.Delete | sa.Insert] = [sa.delete(weights).where(weights.c.trial_id == trial_id)]
    if safetensors is not None:
        row = {
            "trial_id": trial_id,
            "study_uid": study_uid,
            "sha256": hashlib.sha256(safetensors).hexdigest(),
            "safetensors": safetensors,
        }
        changes.append(sa.insert(weights).values(row))
    return changes


def deletion_of_others(study_uid: str, trial_ids: Collection[int]) -> sa.Delete:
    """The statement that deletes the weights of the study's other trials."""
    return sa.delete(weights).where(weights.c.study_uid == study_uid, weights.c.trial_id.not_in(trial_ids))


def of_study(store: Store, study_uid: str) -> dict[int, bytes]:
    """Weights of a study as safetensors, by trial id.

    Raises:
        UnusableConfiguration: stored weights do not match their digest.
    """
    with store.engine.connect() as connection:
        rows = connection.execute(sa.select(weights).where(weights.c.study_uid == study_uid)).all()
    return {row.trial_id: _checked(store, row, f"trial id {row.trial_id}") for row in rows}


def of_trial(store: Store, trial_id: int, description: str) -> bytes:
    """Weights of one trial as safetensors; ``description`` names the trial in the error.

    Raises:
        UnusableConfiguration: they are missing or do not match their digest.
    """
    with store.engine.connect() as connection:
        row = connection.execute(sa.select(weights).where(weights.c.trial_id == trial_id)).first()
    return _checked(store, row, description)


def _checked(store: Store, row: Any, description: str) -> bytes:
    if row is None or hashlib.sha256(row.safetensors).hexdigest() != row.sha256:
        raise UnusableConfiguration(
            f"the weights of {description} in {store} are missing or damaged; restore the store from a backup"
        )
    return bytes(row.safetensors)
