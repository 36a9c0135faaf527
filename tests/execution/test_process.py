"""Processes that run a module: import path, interrupts, messages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from mnist_search.execution.events import ProcessEvent
from mnist_search.execution.process import ModuleProcess, child_environment

PARENT = """
import sys
from mnist_search.execution.process import ModuleProcess
process = ModuleProcess("module_of_the_user", "hello")
print(process.connection.recv(), process.wait(30))
"""
CHILD = """
from mnist_search.execution.process import connect_to_parent
connection, config = connect_to_parent()
connection.send(f"received {config}")
"""


@pytest.mark.parametrize("arguments", [["-c", PARENT], ["-"], ["parent.py"]])
def test_started_module_has_the_import_path_of_its_parent(tmp_path, arguments):
    (tmp_path / "module_of_the_user.py").write_text(CHILD)
    (tmp_path / "parent.py").write_text(PARENT)

    done = subprocess.run(
        [sys.executable, *arguments], input=PARENT, cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert (done.stdout, done.stderr) == ("received hello 0\n", "")


@pytest.mark.parametrize(("filters", "expected"), [("error", None), ("ignore", "ignore")])
def test_started_module_does_not_raise_warnings(monkeypatch, filters, expected):
    monkeypatch.setenv("PYTHONWARNINGS", filters)

    assert child_environment().get("PYTHONWARNINGS") == expected


def start_and_interrupt():
    process = ModuleProcess("scripted_worker", ["wait for a message"])
    os.kill(process.pid, signal.SIGINT)  # before it imports anything
    process.send("go on")
    return process.connection.recv(), process.end(30)


def test_interrupts_do_not_end_a_started_process():
    with ThreadPoolExecutor() as threads:
        ends = [start_and_interrupt(), threads.submit(start_and_interrupt).result()]

    assert ends == [(ProcessEvent.DONE, 0)] * 2
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_message_to_an_ended_process_has_no_effect():
    process = ModuleProcess("scripted_worker", ["crash"])
    assert process.wait(30) == 9

    process.send("hello")

    with pytest.raises(EOFError):
        process.connection.recv()
    process.connection.close()
