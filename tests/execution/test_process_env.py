"""Exit of processes without interpreter teardown."""

import os
import subprocess
import sys

import pytest

CHECK = """
import atexit, sys, threading
from mnist_search.process_env import ExitWithoutTeardown

class Freed:
    def __del__(self):
        print("freed")

kept = Freed()
exit_hook = ExitWithoutTeardown()
atexit.register(print, "a later hook")
threading.Thread(target=lambda: (threading.main_thread().join(), print("a thread"))).start()
print("last line", end=" ")
{end}
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("exit_hook.code = 0", 0),
        ("exit_hook.code = 75; sys.exit(75)", 75),
        ("raise ValueError('uncaught')", 1),
    ],
)
def test_process_exits_after_threads_and_hooks_without_teardown(end, code):
    done = subprocess.run(
        [sys.executable, "-c", CHECK.format(end=end)], capture_output=True, text=True, check=False
    )

    assert done.returncode == code
    assert done.stdout == "last line a thread\na later hook\n"
    assert ("uncaught" in done.stderr) == (code == 1)


def test_command_succeeds_when_its_output_is_not_read():
    command = f"{sys.executable} -m mnist_search space --budget 8000 --format json | true"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}

    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"],
        env=buffered, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")


FREED = """
import sys

class Freed:
    def __del__(self):
        print("freed")

kept = Freed()
"""
COMMAND = """
from mnist_search.cli.app import main
sys.argv = ["mnist-search", "--version"]
main()
"""
PROCESS = """
from multiprocessing import Pipe
from pathlib import Path
from mnist_search.execution.config import RunConfig
from mnist_search.execution.runtime import run_process
from mnist_search.execution.worker import run
parent, child = Pipe()
parent.send(
    RunConfig(storage="sqlite:///none.db", study="s", data_dir=Path(), device="cpu", precision="fp32")
)
sys.argv = ["worker", str(child.fileno())]
run_process(run)
"""


@pytest.mark.parametrize(("process", "frees"), [("", True), (COMMAND, False), (PROCESS, False)])
def test_commands_and_workers_exit_without_teardown(process, frees):
    done = subprocess.run(
        [sys.executable, "-c", FREED + process], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert ("freed" in done.stdout) == frees
