"""Who works on which trial: a lease that its worker renews and that others may take when it is dead."""

from __future__ import annotations

import platform
from typing import Any

import psutil
import sqlalchemy as sa

from mnist_search.storage.database import Store, leases

RENEW_INTERVAL = 15.0
LEASE_TIMEOUT = 8 * RENEW_INTERVAL
"""A lease without a beat for this long is dead, wherever its worker was."""


def write(store: Store, trial_id: int, owner: str) -> None:
    """Give a trial to this process, whoever had it before."""
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
    """Say that the owner lives; whether it still has its lease."""
    renewal = sa.update(leases).where(leases.c.owner == owner).values(beat=store.now())
    with store.engine.begin() as connection:
        return bool(connection.execute(renewal).rowcount)


def drop(store: Store, trial_id: int) -> None:
    """End the lease of a trial."""
    with store.engine.begin() as connection:
        connection.execute(sa.delete(leases).where(leases.c.trial_id == trial_id))


def exists(store: Store, trial_id: int) -> bool:
    """Whether anybody has, or died with, the lease of a trial."""
    with store.engine.connect() as connection:
        one = sa.select(leases.c.owner).where(leases.c.trial_id == trial_id)
        return connection.execute(one).first() is not None


def active(store: Store) -> set[int]:
    """The trials whose worker lives."""
    age = (store.now() - leases.c.beat).label("age")
    with store.engine.begin() as connection:
        rows = connection.execute(sa.select(leases, age)).all()
    return {row.trial_id for row in rows if row.age < LEASE_TIMEOUT and _may_live(row)}


def _may_live(lease: Any) -> bool:
    """False only for a process of this machine that is known to be gone."""
    if lease.host != platform.node():
        return True
    try:
        # A process that was given the same number later has started later.
        started = float(psutil.Process(lease.pid).create_time())
        return abs(started - float(lease.process_started)) < 1
    except psutil.Error:
        return False
