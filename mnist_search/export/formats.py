"""Model files: pt2, ONNX and safetensors, without pickle; each includes the normalization."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import safe_open
from safetensors.torch import load, save
from torch import Tensor, nn

from mnist_search.errors import NotFound, UnusableConfiguration, first_line
from mnist_search.files import write_file
from mnist_search.training.model import load_network
from search_space import Architecture
from search_space.serialization import from_dict, to_dict

Classifier: TypeAlias = Callable[[Tensor], Tensor]
"""(N, 1, 28, 28) float32 pixels in [0, 1] to (N, 10) logits; a torch module, unless of an ONNX file."""

Writer: TypeAlias = Callable[[Architecture, bytes], bytes]
Reader: TypeAlias = Callable[[Path], Classifier]

ONNX_MISSING = "ONNX is not installed; install it with pip install 'mnist-search[onnx]'"


def export_model(path: Path, architecture: Architecture, weights: bytes) -> str:
    """Write a network in the format of the suffix, .pt2, .onnx or .safetensors; the file's SHA-256 digest.

    Raises:
        UnusableConfiguration: unknown format, or its library is not installed.
        DiskError: the file cannot be written; no partial file is left.
    """
    to_bytes, _ = _format(path)
    content = to_bytes(architecture, weights)
    write_file(path, content, "name another folder with --output")
    return hashlib.sha256(content).hexdigest()


def _format(path: Path) -> tuple[Writer, Reader]:
    if path.suffix not in FORMATS:
        raise UnusableConfiguration(
            f"unknown model format {path.suffix or path.name!r}; a file name ends in {', '.join(FORMATS)}"
        )
    return FORMATS[path.suffix]


def _exported_program(architecture: Architecture, weights: bytes) -> torch.export.ExportedProgram:
    example = torch.rand(2, 1, 28, 28)  # torch.export would fix a batch size of one
    sizes = ({0: torch.export.Dim("batch", min=1)},)
    program = torch.export.export(load_network(architecture, weights), (example,), dynamic_shapes=sizes)
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


def read_model(path: Path) -> Classifier:
    """Read a file that ``export_model`` wrote.

    Raises:
        NotFound: no such file.
        UnusableConfiguration: it is damaged, or no network for digits.
    """
    _, read = _format(path)
    if not path.is_file():
        raise NotFound(f"no file {path}; write one with mnist-search export")
    try:
        network = read(path)
        _check_output(network)
    except ImportError as error:
        raise UnusableConfiguration(ONNX_MISSING) from error
    except Exception as error:  # the library of a format raises anything on a damaged or foreign file
        raise UnusableConfiguration(
            f"{path} is damaged or was not written by mnist-search ({first_line(error)}); export the network again"
        ) from error
    return network


@torch.no_grad()
def _check_output(network: Classifier) -> None:
    """Raise unless the network maps two images to ten logits each."""
    output: object = network(torch.full((2, 1, 28, 28), 0.5))
    if not isinstance(output, Tensor):
        raise TypeError(f"it returns a {type(output).__name__} instead of a tensor of logits")
    if output.shape != (2, 10) or not output.is_floating_point():
        raise ValueError(
            f"it returns {output.dtype} of shape {tuple(output.shape)} instead of (2, 10) logits"
        )


def _read_pt2(path: Path) -> nn.Module:
    logging.getLogger("torch.export").setLevel(logging.CRITICAL)  # it would print a traceback
    network = torch.export.load(path).module()
    for module in network.modules():
        module.training = False  # export stored this mode; the methods train and eval raise
    return network


def _read_onnx(path: Path) -> Classifier:
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)  # it would print its errors, too
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    if len(session.get_outputs()) != 1:
        raise ValueError(f"it has {len(session.get_outputs())} outputs instead of one")
    return lambda pixels: torch.from_numpy(session.run(None, {"pixels": pixels.numpy()})[0])


def _read_safetensors(path: Path) -> nn.Module:
    with safe_open(path, "pt") as file:
        architecture = from_dict(json.loads((file.metadata() or {})["architecture"]))
    return load_network(architecture, path.read_bytes())


FORMATS: Mapping[str, tuple[Writer, Reader]] = {
    ".pt2": (_to_pt2, _read_pt2),
    ".onnx": (_to_onnx, _read_onnx),
    ".safetensors": (_to_safetensors, _read_safetensors),
}
"""How a network is written and read, by the suffix of its file."""
