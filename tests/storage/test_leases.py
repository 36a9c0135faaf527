"""Leases name a process that is unique across machines, boots and containers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from mnist_search.storage import leases
from mnist_search.storage.leases import ProcessIdentity

linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc on this system")


@contextmanager
def child():
    """A process that runs until its input is closed."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def identity_of(process):
    return replace(ProcessIdentity.current(), pid=process.pid, started=leases._started(process.pid))


def wait_for(condition):
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("the condition was not met within 10 s")


def test_this_process_and_another_one_of_this_host_run():
    with child() as process:
        assert ProcessIdentity.current().pid == os.getpid()
        for identity in (ProcessIdentity.current(), identity_of(process)):
            assert identity.is_running
            assert not identity.has_ended


def test_killed_process_has_ended():
    with child() as process:
        identity = identity_of(process)
        process.kill()
        process.wait()

    assert identity.has_ended
    assert not identity.is_running


def test_zombie_has_ended():
    with child() as process:
        identity = identity_of(process)
        process.kill()
        wait_for(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)

        assert identity.has_ended
        assert not identity.is_running


def test_another_process_with_the_same_id_is_not_the_same():
    identity = ProcessIdentity.current()

    assert replace(identity, started=identity.started - 1).has_ended
    assert not replace(identity, started=identity.started - 1).is_running


@pytest.mark.parametrize("change", [str.upper, lambda host: host[:-2] + "0]", lambda _: "elsewhere"])
def test_process_of_another_host_or_pid_namespace_neither_runs_nor_has_ended(change):
    identity = ProcessIdentity.current()
    other = replace(identity, host=change(identity.host))

    for each in (other, replace(other, started=1.0), replace(other, pid=2**30)):
        assert not each.has_ended
        assert not each.is_running


@linux
def test_start_is_counted_from_the_boot_so_that_a_step_of_the_wall_clock_changes_nothing():
    with child() as process:
        ticks = float(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])

        assert identity_of(process).started == ticks
        assert ticks / os.sysconf("SC_CLK_TCK") <= uptime


@linux
def test_host_names_the_boot_and_the_pid_namespace():
    host = ProcessIdentity.current().host

    assert Path("/proc/sys/kernel/random/boot_id").read_text().strip() in host
    assert str(Path("/proc/self/ns/pid").readlink()) in host
