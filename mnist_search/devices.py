"""Devices of this machine and the number of concurrent trials, without an import of torch, which takes seconds."""

from __future__ import annotations

import ctypes
import re
import runpy
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mnist_search.errors import UnusableConfiguration, UsageError
from mnist_search.process_env import usable_cores

TRIALS_PER_GPU = 16
"""97 % of the images/s of 16 threads with 12, 90 % with 8, no more with 24, on an H100 (experiments/LOG.md)."""

MAX_TRIALS_PER_GPU = 32
"""torch has so many streams per device; two threads must not share one."""

TRIALS_PER_MPS = 2
"""The second process trains while the first evaluates and writes; not measured."""


def resolve_devices(name: str) -> list[str]:
    """Names of torch's devices for ``auto``, ``cuda``, ``cuda:0,cuda:2``, ``mps`` or ``cpu``.

    ``auto`` and ``cuda`` are every visible GPU.

    Raises:
        UsageError: the name is none of these.
        UnusableConfiguration: this machine has no such device.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?|cuda:\d+(,cuda:\d+)*", name):
        raise UsageError(f"--device takes auto, cpu, mps, cuda or GPUs such as cuda:0,cuda:2, not {name!r}")
    if name == "cpu":
        return ["cpu"]
    if name == "mps" or (name == "auto" and not visible_gpus()):
        if _has_mps():
            return ["mps"]
        if name == "auto":
            return ["cpu"]
        raise UnusableConfiguration("no mps device on this machine; select one with --device auto")
    gpus = [f"cuda:{index}" for index in range(visible_gpus())]
    selected = gpus if name in {"auto", "cuda"} else list(dict.fromkeys(name.split(",")))
    if not gpus or not set(selected) <= set(gpus):
        found = f"it has {gpus[0]} to {gpus[-1]}" if gpus else "select one with --device auto"
        raise UnusableConfiguration(f"no {name} device on this machine; {found}")
    return selected


def default_jobs(device: str) -> int:
    """Number of concurrent trials for ``--jobs auto``: one per core, or a constant on an accelerator."""
    if device == "cpu":
        return usable_cores()
    return TRIALS_PER_MPS if device == "mps" else TRIALS_PER_GPU


@cache
def visible_gpus() -> int:
    """Number of GPUs that torch can use: those of the driver, within CUDA_VISIBLE_DEVICES."""
    build = _torch_build()
    if build.get("hip"):  # AMD GPUs are cuda devices, too
        import torch

        return torch.cuda.device_count()
    if not build.get("cuda"):
        return 0
    count = ctypes.c_int()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def _torch_build() -> dict[str, Any]:
    """Versions of CUDA and HIP that torch was built for, among others."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return {}
    return runpy.run_path(str(Path(spec.origin).with_name("version.py")))


def _has_mps() -> bool:
    if sys.platform != "darwin":
        return False
    import torch

    return torch.backends.mps.is_available()
