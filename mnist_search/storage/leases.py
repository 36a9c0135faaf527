"""Leases: which process works on which trial. Its worker renews a lease until the trial has ended."""

from __future__ import annotations

import platform
from typing import Any

import psutil
import sqlalchemy as sa

from mnist_search.storage.database import Store
from mnist_search.storage.tables import leases

RENEW_INTERVAL = 15.0
LEASE_TIMEOUT = 8 * RENEW_INTERVAL
"""Seconds without a renewal after which a lease of any machine has expired."""


def write(store: Store, trial_id: int, owner: str) -> None:
    """Lease a trial to this process, in place of an earlier lease."""
    process = psutil.Process()
    row = {
        "trial_id": trial_id,
        "owner": owner,
        "host": platform.node(),
        "pid": process.pid,
        "process_started": process.create_time(),
        "beat": store.now(),
    }
    with store.engine.begin() as connection:
        connection.execute(sa.delete(leases).where(leases.c.trial_id == trial_id))
        connection.execute(sa.insert(leases).values(row))


def renew(store: Store, owner: str) -> bool:
    """Renew the lease of an owner; False if the owner has none."""
    renewal = sa.update(leases).where(leases.c.owner == owner).values(beat=store.now())
    with store.engine.begin() as connection:
        return bool(connection.execute(renewal).rowcount)


def drop(store: Store, trial_id: int) -> None:
    """Delete the lease of a trial."""
    with store.engine.begin() as connection:
        connection.execute(deletion(trial_id))


def deletion(trial_id: int) -> sa.Delete:
    """The statement that deletes the lease of a trial."""
    return sa.delete(leases).where(leases.c.trial_id == trial_id)


def exists(store: Store, trial_id: int) -> bool:
    """Whether a trial has a lease, expired or not."""
    with store.engine.connect() as connection:
        owner = sa.select(leases.c.owner).where(leases.c.trial_id == trial_id)
        return connection.execute(owner).first() is not None


def active(store: Store) -> set[int]:
    """Ids of the trials whose lease has not expired."""
    age = (store.now() - leases.c.beat).label("age")
    with store.engine.begin() as connection:
        rows = connection.execute(sa.select(leases, age)).all()
    return {row.trial_id for row in rows if row.age < LEASE_TIMEOUT and _process_may_be_running(row)}


def _process_may_be_running(lease: Any) -> bool:
    """False only for a process of this machine that no longer runs."""
    if lease.host != platform.node():
        return True
    try:
        # A later process with the same id has a later start time.
        started = float(psutil.Process(lease.pid).create_time())
        return abs(started - float(lease.process_started)) < 1
    except psutil.Error:
        return False
