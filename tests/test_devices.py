"""Devices of this machine and the workers on them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mnist_search.devices import (
    MAX_TRIALS_PER_GPU,
    TRIALS_PER_GPU,
    default_jobs,
    resolve_devices,
    visible_gpus,
)
from mnist_search.errors import UnusableConfiguration, UsageError
from mnist_search.execution.config import RunConfig
from mnist_search.execution.run_study import worker_configs
from mnist_search.process_env import usable_cores

has_no_gpu = pytest.mark.skipif(visible_gpus() > 0, reason="this machine has a GPU")


def workers(device, jobs, n_left):
    config = RunConfig(storage="sqlite:///none.db", study="s", device=device, jobs=jobs)
    return [(worker.device, worker.trial_threads) for worker in worker_configs(config, n_left)]


def test_cpu_has_a_process_per_job_and_one_thread_each():
    assert workers("cpu", 4, 50) == [("cpu", 1)] * 4
    assert workers("cpu", 4, 3) == [("cpu", 1)] * 3
    assert workers("cpu", 4, 0) == []


def test_gpu_has_one_process_with_a_thread_per_job():
    assert workers("cuda:0", 16, 50) == [("cuda:0", 16)]
    assert workers("cuda:0", 16, 3) == [("cuda:0", 3)]
    assert workers("cuda:0", 40, 50) == [("cuda:0", MAX_TRIALS_PER_GPU)]


def test_gpus_share_the_trials_that_are_left():
    assert workers("cuda:0,cuda:2", 16, 50) == [("cuda:0", 16), ("cuda:2", 16)]
    assert workers("cuda:0,cuda:2", 16, 5) == [("cuda:0", 3), ("cuda:2", 2)]
    assert workers("cuda:0,cuda:2", 16, 1) == [("cuda:0", 1)]


def test_jobs_are_one_per_core_on_a_cpu_and_constant_on_a_gpu():
    assert default_jobs("cpu") == usable_cores()
    assert default_jobs("cuda:1") == TRIALS_PER_GPU


@has_no_gpu
def test_auto_is_the_cpu_without_a_gpu():
    assert resolve_devices("auto") == resolve_devices("cpu") == ["cpu"]


@has_no_gpu
@pytest.mark.parametrize("name", ["cuda", "cuda:1", "cuda:0,cuda:2", "mps"])
def test_missing_device_is_refused(name):
    with pytest.raises(UnusableConfiguration, match=f"no {name} device on this machine"):
        resolve_devices(name)


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:0;cuda:1", "cpu,cuda:0", ""])
def test_unknown_name_is_refused(name):
    with pytest.raises(UsageError, match="--device takes"):
        resolve_devices(name)


def test_devices_are_found_without_torch():
    code = "import sys; from mnist_search.devices import resolve_devices; resolve_devices('auto')"
    script = f"{code}; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == (
        sys.platform == "darwin"
    )
