"""A trained network as one file that others can use, without pickle, and back again.

Every format takes float32 pixels in [0, 1] of shape (N, 1, 28, 28), holds its own normalisation
and gives (N, 10) logits.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load, save
from torch import Tensor, nn

from mnist_search.errors import DiskError, UnusableConfiguration
from mnist_search.training.model import REFERENCE_LAYERS, Network, count
from search_space import Architecture
from search_space.serialization import from_dict, to_dict

Logits: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""(N, 1, 28, 28) float32 pixels in [0, 1] to (N, 10) float32 logits."""

EXAMPLE = 2
"""Images in the example of an export: a batch of one would be fixed for ever."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that was read.

    Attributes:
        parameters: learned ones, counted in the file; None where a format does not tell them from
            running statistics.
    """

    logits: Logits
    parameters: int | None


def restore(architecture: Architecture, weights: bytes) -> Network:
    """A network of torch's own layers with these weights (safetensors), in evaluation mode."""
    network = Network(architecture, REFERENCE_LAYERS)
    network.load_state_dict(load(weights))
    return network.eval()


def write(path: Path, architecture: Architecture, weights: bytes) -> None:
    """Write a network in the format that the suffix names: pt2, onnx or safetensors.

    Raises:
        UnusableConfiguration: no such format, or what writes it is not installed.
        DiskError: the file cannot be written; nothing half-written is left.
    """
    make = _writer(path)
    with _in_one_step(path) as fresh:
        make(fresh, architecture, weights)


def _writer(path: Path) -> Callable[[Path, Architecture, bytes], None]:
    if path.suffix not in WRITERS:
        formats = ", ".join(WRITERS)
        raise UnusableConfiguration(f"no format {path.suffix or path.name!r}; a file ends in {formats}")
    return WRITERS[path.suffix]


@contextmanager
def _in_one_step(path: Path) -> Iterator[Path]:
    fresh = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield fresh
        fresh.replace(path)
    except OSError as error:
        raise DiskError(f"cannot write {path}: {error}; name another place with --output") from error
    finally:
        fresh.unlink(missing_ok=True)


def _program(architecture: Architecture, weights: bytes) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    network = restore(architecture, weights)
    program = torch.export.export(network, (torch.rand(EXAMPLE, 1, 28, 28),), dynamic_shapes=({0: batch},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine, in every file that is given away
    return program


def _write_pt2(path: Path, architecture: Architecture, weights: bytes) -> None:
    program = _program(architecture, weights)
    program.example_inputs = None  # they alone would be pickled
    content = BytesIO()
    torch.export.save(program, content)
    path.write_bytes(content.getvalue())


def _write_onnx(path: Path, architecture: Architecture, weights: bytes) -> None:
    try:
        import onnxscript  # noqa: F401 - torch needs it
    except ImportError as error:
        raise UnusableConfiguration(
            "ONNX is not installed; install it with pip install 'mnist-search[onnx]'"
        ) from error
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parts of torch that another part has deprecated
        program = torch.onnx.export(
            _program(architecture, weights), dynamo=True, verbose=False,
            input_names=["pixels"], output_names=["logits"],
        )  # fmt: skip
    assert program is not None
    program.save(path, external_data=False)


def _write_safetensors(path: Path, architecture: Architecture, weights: bytes) -> None:
    metadata = {
        "architecture": json.dumps(to_dict(architecture)),
        "input": "pixels in [0, 1], (N, 1, 28, 28)",
    }
    path.write_bytes(save(load(weights), metadata))


WRITERS: Mapping[str, Callable[[Path, Architecture, bytes], None]] = {
    ".pt2": _write_pt2,
    ".onnx": _write_onnx,
    ".safetensors": _write_safetensors,
}


def read(path: Path) -> Artifact:
    """A file that ``write`` wrote.

    Raises:
        UnusableConfiguration: no such file, damaged, or not ours.
    """
    _writer(path)
    if not path.is_file():
        raise UnusableConfiguration(f"no file {path}; make one with mnist-search export")
    try:
        return READERS[path.suffix](path)
    except ImportError as error:
        raise UnusableConfiguration(
            "ONNX is not installed; install it with pip install 'mnist-search[onnx]'"
        ) from error
    except Exception as error:  # a damaged file fails anywhere in its library
        reason = (str(error).strip() or repr(error)).splitlines()[0][:200]
        raise UnusableConfiguration(f"{path} is damaged or no network of ours: {reason}") from error


def _of_module(module: Callable[[Tensor], Tensor]) -> Logits:
    def logits(pixels: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            run_cli: np.ndarray = module(torch.from_numpy(pixels)).numpy()
        return run_cli

    return logits


def _read_pt2(path: Path) -> Artifact:
    logging.getLogger("torch.export").setLevel(logging.CRITICAL)  # it would print a traceback
    program = torch.export.load(path)
    parameters = sum(p.numel() for p in program.parameters())
    return Artifact(_of_module(program.module()), parameters)


def _read_onnx(path: Path) -> Artifact:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return Artifact(lambda pixels: session.run(None, {given.name: pixels})[0], None)


def _read_safetensors(path: Path) -> Artifact:
    with safe_open(path, "pt") as file:
        architecture = from_dict(json.loads((file.metadata() or {})["architecture"]))
    network: nn.Module = restore(architecture, path.read_bytes())
    return Artifact(_of_module(network), count(network))


READERS: Mapping[str, Callable[[Path], Artifact]] = {
    ".pt2": _read_pt2,
    ".onnx": _read_onnx,
    ".safetensors": _read_safetensors,
}
