"""How processes end."""

import os
import subprocess
import sys

import pytest

CHECK = """
import atexit, sys, threading, time
from mnist_search.process_env import ExitWithoutTeardown

class Freed:
    def __del__(self):
        print("freed")

kept = Freed()
ending = ExitWithoutTeardown()
atexit.register(print, "a later hook")
threading.Thread(target=lambda: (time.sleep(0.2), print("a thread"))).start()
print("the end", end=" ")
{end}
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("ending.code = 0", 0),
        ("ending.code = 75; sys.exit(75)", 75),
        ("raise ValueError('nobody caught this')", 1),
    ],
)
def test_a_process_ends_after_its_threads_and_hooks_and_frees_nothing(end, code):
    done = subprocess.run(
        [sys.executable, "-c", CHECK.format(end=end)], capture_output=True, text=True, check=False
    )

    assert done.returncode == code
    assert done.stdout == "the end a thread\na later hook\n"
    assert ("nobody caught this" in done.stderr) == (code == 1)


def test_output_that_nobody_reads_is_no_error():
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
WORKER = """
from multiprocessing import Pipe
from mnist_search.execution.runtime import serve
ours, theirs = Pipe()
serve(theirs, lambda line: None)
"""


@pytest.mark.parametrize(("process", "frees"), [("", True), (COMMAND, False), (WORKER, False)])
def test_commands_and_workers_end_so(process, frees):
    done = subprocess.run(
        [sys.executable, "-c", FREED + process], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert ("freed" in done.stdout) == frees
