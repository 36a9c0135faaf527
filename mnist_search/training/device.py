"""Device and compute mode, chosen by rule; streams and threads."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from mnist_search.devices import resolve_devices

CPU = torch.device("cpu")

PrecisionChoice: TypeAlias = Literal["auto", "bf16", "fp32"]

# torch's names of CPU capabilities with bf16 arithmetic: x86-64 AVX-512 and AMX, and Arm.
NATIVE_BF16 = ("avx512_bf16", "amx_bf16", "bf16")


def resolve_device(name: str) -> torch.device:
    """The first device for ``auto``, ``cuda``, ``cuda:1``, ``mps`` or ``cpu``; see ``resolve_devices``."""
    return torch.device(resolve_devices(name)[0])


@dataclass(frozen=True, slots=True)
class ComputeMode:
    """How a training step is computed: precision, memory format, padded widths and, on CUDA only, CUDA graphs.

    Modes differ only by rounding; weights are always fp32.
    """

    precision: Literal["bf16", "fp32"] = "fp32"
    channels_last: bool = True
    graph: bool = False
    padded: bool = False

    def __str__(self) -> str:
        layout = "channels last" if self.channels_last else "channels first"
        flags = {"padded widths": self.padded, "CUDA graph": self.graph}
        return ", ".join((self.precision, layout, *(name for name, is_set in flags.items() if is_set)))

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
    is_cuda = device.type == "cuda"
    return ComputeMode(precision, channels_last=True, graph=is_cuda, padded=is_cuda)


def _has_native_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(capabilities.get(name) is True for name in NATIVE_BF16)


def describe_device(device: torch.device) -> str:
    """Model name of a GPU or CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {torch.cpu.get_capabilities().get('cpu_name', '')}".strip()


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """Run this thread's GPU work on a stream of its own, so that it overlaps with that of other threads."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.default_stream(device))  # the images were copied there
    with torch.cuda.stream(stream):
        yield


def use_one_thread() -> None:
    """Use one core, before the first tensor operation: faster for several processes of small networks."""
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    torch.set_flush_denormal(True)
