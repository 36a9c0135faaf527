"""Leases: which process works on which trial. Its worker renews a lease until the trial has ended."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from mnist_search.storage.database import Store
from mnist_search.storage.tables import leases

RENEW_INTERVAL = 15.0
LEASE_TIMEOUT = 8 * RENEW_INTERVAL
"""Seconds without a renewal after which any lease has expired."""


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
    row = {
        "trial_id": trial_id,
        "owner": owner,
        "host": process.host,
        "pid": process.pid,
        "process_started": process.started,
        "beat": store.now(),
    }
    if supervisor is not None:
        row |= {"supervisor_pid": supervisor.pid, "supervisor_started": supervisor.started}
    return [deletion(trial_id), sa.insert(leases).values(row)]


def renewal(store: Store, owner: str) -> sa.Update:
    """The statement that renews the lease of an owner; it changes no row if the owner has none."""
    return sa.update(leases).where(leases.c.owner == owner).values(beat=store.now())


def renew(store: Store, owner: str) -> bool:
    """Renew the lease of an owner; False if the owner has none."""
    with store.engine.begin() as connection:
        return bool(connection.execute(renewal(store, owner)).rowcount)


def deletion(trial_id: int) -> sa.Delete:
    """The statement that deletes the lease of a trial."""
    return sa.delete(leases).where(leases.c.trial_id == trial_id)


@dataclass(frozen=True, slots=True)
class LeaseStatus:
    """State of a stored lease.

    Attributes:
        is_active: whether the trial is still the worker's.
        is_crash: whether the supervisor has outlived the worker.
    """

    is_active: bool
    is_crash: bool


def statuses(store: Store) -> dict[int, LeaseStatus]:
    """Every lease, by trial id."""
    age = (store.now() - leases.c.beat).label("age")
    with store.engine.begin() as connection:
        rows = connection.execute(sa.select(leases, age)).all()
    return {row.trial_id: _status(row) for row in rows}


def _status(row: Any) -> LeaseStatus:
    worker = ProcessIdentity(row.host, row.pid, row.process_started)
    is_active = row.age < LEASE_TIMEOUT and not worker.has_ended
    supervisor = row.supervisor_pid and ProcessIdentity(row.host, row.supervisor_pid, row.supervisor_started)
    return LeaseStatus(is_active, is_crash=bool(not is_active and supervisor and supervisor.is_running))
