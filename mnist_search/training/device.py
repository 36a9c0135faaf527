"""Device, compute mode and number of worker processes, chosen by rule."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from mnist_search.errors import UnusableConfiguration
from mnist_search.process_env import usable_cores

CPU = torch.device("cpu")

PrecisionChoice: TypeAlias = Literal["auto", "bf16", "fp32"]

# torch's names of CPU capabilities with bf16 arithmetic: x86-64 AVX-512 and AMX, and Arm.
NATIVE_BF16 = ("avx512_bf16", "amx_bf16", "bf16")

# The second process trains while the first evaluates and writes; more do not pay: on an H100, 1, 2
# and 16 processes trained 1,441, 1,486 and 1,525 steps/s in total (experiments/LOG.md).
JOBS_PER_ACCELERATOR = 2


def resolve_device(name: str) -> torch.device:
    """The device for ``auto``, ``cuda``, ``mps`` or ``cpu``.

    Raises:
        UnusableConfiguration: this machine has no such device.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, is_available in available.items() if is_available)
    if not available.get(name):
        raise UnusableConfiguration(f"no {name} device on this machine; select one with --device auto")
    return torch.device(name)


@dataclass(frozen=True, slots=True)
class ComputeMode:
    """How a training step is computed: precision, memory format and, on CUDA only, a CUDA graph.

    Modes differ only by rounding; weights are always fp32.
    """

    precision: Literal["bf16", "fp32"] = "fp32"
    channels_last: bool = True
    graph: bool = False

    def __str__(self) -> str:
        layout = "channels last" if self.channels_last else "channels first"
        return ", ".join((self.precision, layout, *(["CUDA graph"] if self.graph else [])))

    @property
    def memory_format(self) -> torch.memory_format:
        """Of weights and activations."""
        return torch.channels_last if self.channels_last else torch.contiguous_format


def select_compute_mode(device: torch.device, precision: PrecisionChoice = "auto") -> ComputeMode:
    """Select the compute mode by rule from the hardware only, so that a resumed study computes as before.

    ``auto`` selects bf16 where the hardware computes in bf16 natively.
    """
    if precision == "auto":
        precision = "bf16" if _has_native_bf16(device) else "fp32"
    return ComputeMode(precision, channels_last=True, graph=device.type == "cuda")


def _has_native_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(capabilities.get(name) is True for name in NATIVE_BF16)


def default_jobs(device: torch.device) -> int:
    """Number of worker processes for ``--jobs auto``: one per core, or a constant on an accelerator."""
    return usable_cores() if device.type == "cpu" else JOBS_PER_ACCELERATOR


def describe_device(device: torch.device) -> str:
    """Model name of a GPU or CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {torch.cpu.get_capabilities().get('cpu_name', '')}".strip()


def use_one_thread() -> None:
    """Use one core, before the first tensor operation: faster for several processes of small networks."""
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    torch.set_flush_denormal(True)
