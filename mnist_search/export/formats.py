"""Model files: pt2, ONNX and safetensors, without pickle.

Every format takes float32 pixels in [0, 1] of shape (N, 1, 28, 28), includes the normalization and
returns (N, 10) logits.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Callable, Mapping
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
from mnist_search.training.model import count, load_network
from search_space import Architecture
from search_space.serialization import from_dict, to_dict

Logits: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""(N, 1, 28, 28) float32 pixels in [0, 1] to (N, 10) float32 logits."""

EXAMPLE_BATCH = 2
"""Images in the example input: torch.export would fix a batch size of one."""

ONNX_MISSING = "ONNX is not installed; install it with pip install 'mnist-search[onnx]'"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A network that was read from a file.

    Attributes:
        parameters: learned parameters, counted in the file; None where the format does not separate
            them from running statistics.
        module: the network in evaluation mode; None for ONNX.
    """

    logits: Logits
    parameters: int | None
    module: nn.Module | None = None


def export_model(path: Path, architecture: Architecture, weights: bytes) -> str:
    """Write a network in the format of the suffix, .pt2, .onnx or .safetensors; the file's SHA-256 digest.

    Raises:
        UnusableConfiguration: unknown format, or its library is not installed.
        DiskError: the file cannot be written; no partial file is left.
    """
    _check_suffix(path)
    content = WRITERS[path.suffix](architecture, weights)
    write_atomically(path, content)
    return hashlib.sha256(content).hexdigest()


def _check_suffix(path: Path) -> None:
    if path.suffix not in WRITERS:
        raise UnusableConfiguration(
            f"unknown model format {path.suffix or path.name!r}; a file name ends in {', '.join(WRITERS)}"
        )


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file in one step.

    Raises:
        DiskError: the file cannot be written; no partial file is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise DiskError(f"cannot write {path}: {error}; name another folder with --output") from error
    finally:
        temporary.unlink(missing_ok=True)


def _exported_program(architecture: Architecture, weights: bytes) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    example = torch.rand(EXAMPLE_BATCH, 1, 28, 28)
    program = torch.export.export(
        load_network(architecture, weights), (example,), dynamic_shapes=({0: batch},)
    )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # holds paths of this machine
    return program


def _to_pt2(architecture: Architecture, weights: bytes) -> bytes:
    program = _exported_program(architecture, weights)
    program.example_inputs = None  # torch would pickle them
    content = BytesIO()
    torch.export.save(program, content)
    return content.getvalue()


def _to_onnx(architecture: Architecture, weights: bytes) -> bytes:
    try:
        import onnxscript  # noqa: F401 - an extra that torch.onnx needs
    except ImportError as error:
        raise UnusableConfiguration(ONNX_MISSING) from error
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside torch
        program = torch.onnx.export(
            _exported_program(architecture, weights),
            dynamo=True,
            verbose=False,
            input_names=["pixels"],
            output_names=["logits"],
        )
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content


def _to_safetensors(architecture: Architecture, weights: bytes) -> bytes:
    metadata = {
        "architecture": json.dumps(to_dict(architecture)),
        "input": "pixels in [0, 1], (N, 1, 28, 28)",
    }
    return save(load(weights), metadata)


WRITERS: Mapping[str, Callable[[Architecture, bytes], bytes]] = {
    ".pt2": _to_pt2,
    ".onnx": _to_onnx,
    ".safetensors": _to_safetensors,
}


def read_artifact(path: Path) -> Artifact:
    """Read a file that ``export_model`` wrote.

    Raises:
        UnusableConfiguration: no such file, damaged, or not written by mnist-search.
    """
    _check_suffix(path)
    if not path.is_file():
        raise UnusableConfiguration(f"no file {path}; write one with mnist-search export")
    try:
        return READERS[path.suffix](path)
    except ImportError as error:
        raise UnusableConfiguration(ONNX_MISSING) from error
    except Exception as error:  # the library of a format raises anything on a damaged file
        reason = (str(error).strip() or repr(error)).splitlines()[0][:200]
        raise UnusableConfiguration(
            f"{path} is damaged or was not written by mnist-search ({reason}); export the network again"
        ) from error


def _as_numpy(module: Callable[[Tensor], Tensor]) -> Logits:
    def logits(pixels: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            array: np.ndarray = module(torch.from_numpy(pixels)).numpy()
        return array

    return logits


def _read_pt2(path: Path) -> Artifact:
    logging.getLogger("torch.export").setLevel(logging.CRITICAL)  # it would print a traceback
    program = torch.export.load(path)
    network = program.module()
    for module in network.modules():
        module.training = False  # export stored this mode; the methods train and eval raise
    return Artifact(_as_numpy(network), count(network), network)


def _read_onnx(path: Path) -> Artifact:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return Artifact(lambda pixels: session.run(None, {"pixels": pixels})[0], None)


def _read_safetensors(path: Path) -> Artifact:
    with safe_open(path, "pt") as file:
        architecture = from_dict(json.loads((file.metadata() or {})["architecture"]))
    network = load_network(architecture, path.read_bytes())
    return Artifact(_as_numpy(network), count(network), network)


READERS: Mapping[str, Callable[[Path], Artifact]] = {
    ".pt2": _read_pt2,
    ".onnx": _read_onnx,
    ".safetensors": _read_safetensors,
}
