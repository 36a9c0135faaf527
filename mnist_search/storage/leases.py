"""Leases: which process works on which trial. Its worker renews a lease until the trial has ended."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import psutil
import sqlalchemy as sa

from mnist_search.storage import tables
from mnist_search.storage.database import Store
from mnist_search.storage.tables import leases

RENEW_INTERVAL = 15.0
LEASE_TIMEOUT = 8 * RENEW_INTERVAL
"""Seconds without a renewal after which any lease has expired."""

LeaseStatus: TypeAlias = Literal["active", "expired", "crashed"]
"""Whether the trial is still the worker's; ``crashed`` if its supervisor has outlived the worker."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process, unique across machines, boots and containers.

    Attributes:
        host: host name; on Linux also the boot and the PID namespace, in which ``pid`` is unique.
        pid: process id.
        started: clock ticks from the boot to the process's start; seconds since 1970 without ``/proc``.
    """

    host: str
    pid: int
    started: float

    @classmethod
    def current(cls) -> ProcessIdentity:
        """This process."""
        return cls(_host(), os.getpid(), _started(os.getpid()) or 0.0)

    @property
    def has_ended(self) -> bool:
        """True only for a process of this host that no longer runs."""
        return self.host == _host() and _started(self.pid) != self.started

    @property
    def is_running(self) -> bool:
        """True only for a process of this host that runs."""
        return self.host == _host() and _started(self.pid) == self.started


def _host() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {Path('/proc/self/ns/pid').readlink()}"[:255]
    except OSError:  # not Linux
        return platform.node()


def _started(pid: int) -> float | None:
    """When a process started; None if it does not run. ``create_time`` depends on the wall clock."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        return psutil.Process(pid).create_time() if psutil.pid_exists(pid) else None
    return None if state == "Z" else float(fields[18])


def replacement(
    store: Store, trial_id: int, owner: str, supervisor: ProcessIdentity | None
) -> list[sa.Executable]:
    """The statements that lease a trial to this process, in place of an earlier lease."""
    process = ProcessIdentity.current()
    row = {"trial_id": trial_id, "owner": owner, "beat": store.now()}
    row |= {"host": process.host, "pid": process.pid, "process_started": process.started}
    if supervisor is not None:
        row |= {"supervisor_pid": supervisor.pid, "supervisor_started": supervisor.started}
    return tables.replacement(leases, row)


def renew(store: Store, connection: sa.Connection, owner: str) -> bool:
    """Renew the lease of an owner; False if the owner has none."""
    renewal = sa.update(leases).where(leases.c.owner == owner).values(beat=store.now())
    return bool(connection.execute(renewal).rowcount)


def statuses(store: Store) -> dict[int, LeaseStatus]:
    """The status of every lease, by trial id."""
    age = (store.now() - leases.c.beat).label("age")
    with store.engine.begin() as connection:
        rows = connection.execute(sa.select(leases, age)).all()
    return {row.trial_id: _status(row) for row in rows}


def _status(row: Any) -> LeaseStatus:
    if row.age < LEASE_TIMEOUT and not ProcessIdentity(row.host, row.pid, row.process_started).has_ended:
        return "active"
    supervisor = row.supervisor_pid and ProcessIdentity(row.host, row.supervisor_pid, row.supervisor_started)
    return "crashed" if supervisor and supervisor.is_running else "expired"
