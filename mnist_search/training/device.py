"""Where to train."""

from __future__ import annotations

import os

import torch

from mnist_search.errors import UnusableConfiguration

CPU = torch.device("cpu")


def resolve_device(name: str) -> torch.device:
    """The device that ``auto``, ``cuda``, ``mps`` or ``cpu`` stands for here.

    Raises:
        UnusableConfiguration: the named device does not exist here.
    """
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, there in present.items() if there)
    if not present[name]:
        raise UnusableConfiguration(
            f"no {name} device on this machine; train on what there is with --device auto"
        )
    return torch.device(name)


def describe_device(device: torch.device) -> str:
    """A short name for people: the GPU's model or the CPU's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {torch.cpu.get_capabilities().get('cpu_name', '')}".strip()


def is_out_of_memory(error: Exception) -> bool:
    """Whether a GPU had no room for something."""
    return isinstance(error, torch.OutOfMemoryError)


def use_one_thread() -> None:
    """Give this process one core: several such processes outrun one with several threads.

    Must run before the first tensor operation.
    """
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    torch.set_flush_denormal(True)


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
