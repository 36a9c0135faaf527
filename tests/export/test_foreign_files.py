"""Pictures, networks and cards that mnist-search did not write: read correctly, or refused with one line."""

from __future__ import annotations

import json
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save
from torch import nn

from experiments import BASELINES
from mnist_search.errors import UnusableConfiguration, UsageError
from mnist_search.export.digit_image import load_digit_image
from mnist_search.export.formats import export_model, read_model
from mnist_search.export.inference import predict_images, verify_file
from mnist_search.training.model import build

DIGIT = np.zeros((160, 160))
DIGIT[30:130, 70:90] = 1
SCAN = 60_000 - 52_000 * DIGIT
"""A dark digit on light paper, with 16 bits."""


@pytest.fixture
def expected(tmp_path):
    """The scan with 8 bits, preprocessed."""
    Image.fromarray((SCAN / 257).astype(np.uint8)).save(tmp_path / "expected.png")
    return load_digit_image(tmp_path / "expected.png")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("scan.png", SCAN.astype(np.uint16)),
        ("scan.tif", SCAN.astype(np.uint16)),
        ("int.tif", SCAN.astype(np.int32)),
        ("float.tif", (SCAN / 65_535).astype(np.float32)),
        ("float255.tif", (SCAN / 257).astype(np.float32)),
        ("int32.tif", (SCAN * 10_000).astype(np.int32)),
    ],
)
def test_scan_of_more_than_8_bits_is_scaled(tmp_path, expected, name, values):
    Image.fromarray(values).save(tmp_path / name)

    assert np.abs(load_digit_image(tmp_path / name) - expected).max() < 0.02


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def large_text(png):
    return png[:33] + chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(70 << 20))) + png[33:]


def broken_header(png):
    return png[:8] + chunk(b"IHDR", bytes(5)) + png[33:]


def truncated(png):
    return png[: len(png) // 2]


def broken_pixels(png):
    return png[:33] + chunk(b"IDAT", b"no deflate stream") + chunk(b"IEND", b"")


def huge(png):
    return png[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)) + png[33:]


def gif_header(_png):
    return b"GIF89a" + bytes(20)


def nothing(_png):
    return b""


DAMAGES = (large_text, broken_header, truncated, broken_pixels, huge, gif_header, nothing)


@pytest.fixture
def png(tmp_path):
    Image.fromarray((255 * DIGIT).astype(np.uint8)).save(tmp_path / "digit.png")
    return (tmp_path / "digit.png").read_bytes()


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_picture_that_pillow_refuses_is_a_usage_error(tmp_path, png, damage):
    (tmp_path / "bad.png").write_bytes(damage(png))

    with pytest.raises(UsageError, match=r"bad\.png .*; name a"):
        load_digit_image(tmp_path / "bad.png")


def test_folder_is_no_picture(tmp_path):
    with pytest.raises(UsageError, match="cannot read"):
        load_digit_image(tmp_path)


@pytest.fixture
def model(tmp_path):
    """A model file with a card of a validation accuracy."""
    architecture = BASELINES["seed-001"].architecture
    weights = save(build(architecture, 0).state_dict())
    export_model(tmp_path / "model.safetensors", architecture, weights)
    return tmp_path / "model.safetensors"


def test_bad_picture_among_good_ones_fails_with_its_reason(tmp_path, model, png):
    (tmp_path / "bad.png").write_bytes(truncated(png))

    rows, errors = predict_images(model, [tmp_path / name for name in ("digit.png", "bad.png", "digit.png")])

    assert [row["digit"] for row in rows] == [rows[0]["digit"], None, rows[0]["digit"]]
    assert [row["error"] is None for row in rows] == [True, False, True]
    assert [str(error) for error in errors] == [rows[1]["error"]]
    assert "bad.png" in rows[1]["error"]


@pytest.mark.usefixtures("model", "png")
def test_predict_answers_the_good_pictures_and_exits_with_1(command):
    mixed = command("predict", "model.safetensors", "digit.png", "none.png", "-f", "json")
    single = command("predict", "model.safetensors", "none.png")

    rows = json.loads(mixed.out)
    assert (mixed.code, mixed.err.count("\n")) == (1, 1)
    assert "1 of 2 images were not classified: no image file none.png" in mixed.err
    assert sum(rows[0]["probabilities"]) == pytest.approx(1, abs=1e-4)
    assert rows[1]["error"].startswith("no image file none.png")
    assert (single.code, single.out, single.err.count("\n")) == (66, "", 1)


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("name", ["photo[edited].png", "x[/y]/z.png", "[red]7[/red].png", ":smile:.png"])
def test_name_with_square_brackets_is_printed_as_it_is(command, tmp_path, png, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(png)

    done = command("predict", "model.safetensors", name)

    assert (done.code, name in done.out) == (0, True), done.err


def test_file_name_that_is_not_utf_8_is_escaped(command, tmp_path, model, png):
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / name).write_bytes(png)

    done = command("predict", model.name, name, "-f", "csv")

    assert (done.code, "caf\\udce9.png" in done.out) == (0, True), done.err


class TwoOutputs(nn.Module):
    def forward(self, pixels):
        logits = pixels.flatten(1)[:, :10]
        return logits, logits.sum()


class Labels(nn.Module):
    def forward(self, pixels):
        return pixels.flatten(1)[:, :10].long()


NETWORKS = {
    "colors": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(3600, 10)), (3, 32, 32)),
    "two classes": (nn.Sequential(nn.Flatten(), nn.Linear(784, 2)), (1, 28, 28)),
    "feature map": (nn.Conv2d(1, 10, 3), (1, 28, 28)),
    "two outputs": (TwoOutputs(), (1, 28, 28)),
    "labels": (Labels(), (1, 28, 28)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_foreign_pt2_file_is_refused(tmp_path, name):
    network, shape = NETWORKS[name]
    batch = ({0: torch.export.Dim("batch", min=1)},)
    program = torch.export.export(network.eval(), (torch.rand(2, *shape),), dynamic_shapes=batch)
    torch.export.save(program, tmp_path / "foreign.pt2")

    with pytest.raises(UnusableConfiguration, match="was not written by mnist-search"):
        read_model(tmp_path / "foreign.pt2")


def onnx_model(path, n_classes, n_outputs, name="pixels"):
    """A network that flattens images and returns the first ``n_classes`` pixels."""
    from onnx import TensorProto, checker, helper, numpy_helper, save

    weights = numpy_helper.from_array(np.eye(784, n_classes, dtype=np.float32), "weights")
    pixels = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1, 28, 28])
    names = [f"logits{number}" for number in range(n_outputs)]
    outputs = [helper.make_tensor_value_info(each, TensorProto.FLOAT, ["batch", n_classes]) for each in names]
    nodes = [helper.make_node("Flatten", [name], ["flat"])]
    nodes += [helper.make_node("MatMul", ["flat", "weights"], [each]) for each in names]
    graph = helper.make_graph(nodes, "foreign", [pixels], outputs, [weights])
    opset = [helper.make_opsetid("", 17)]
    network = helper.make_model(graph, opset_imports=opset, ir_version=8)
    checker.check_model(network)
    save(network, path)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"n_classes": 2, "n_outputs": 1}, r"shape \(2, 2\)"),
        ({"n_classes": 10, "n_outputs": 2}, "2 outputs"),
        ({"n_classes": 10, "n_outputs": 1, "name": "image"}, "image"),
    ],
)
def test_foreign_onnx_file_is_refused(tmp_path, capfd, arguments, reason):
    pytest.importorskip("onnxruntime")
    onnx_model(tmp_path / "foreign.onnx", **arguments)

    with pytest.raises(UnusableConfiguration, match=f"was not written by mnist-search .*{reason}"):
        read_model(tmp_path / "foreign.onnx")
    assert capfd.readouterr().err == ""


def test_safetensors_file_of_another_program_is_refused(tmp_path):
    (tmp_path / "foreign.safetensors").write_bytes(save({"weight": torch.zeros(3)}))

    with pytest.raises(UnusableConfiguration, match="was not written by mnist-search"):
        read_model(tmp_path / "foreign.safetensors")


CARD = {"parameters": 7204, "val_accuracy": 0.5, "split": [1000, 500, 0]}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"split": None}, "split"),
        ({"split": [1000, 500]}, "split"),
        ({"split": [59_999, 500, 0]}, "split"),
        ({"split": [1000, 0, 0]}, "split"),
        ({"val_accuracy": None}, "val_accuracy"),
        ({"val_accuracy": "high"}, "val_accuracy"),
        ({"test_accuracy": "high"}, "test_accuracy"),
        ({"parameters": "many"}, "parameters"),
        ({"sha256": ["abc"]}, "sha256"),
        ({"sha256": {"safetensors": 7}}, "sha256"),
    ],
)
def test_card_that_lacks_a_field_is_refused(model, mnist_dir, changes, field):
    card = {name: value for name, value in (CARD | changes).items() if value is not None}
    model.with_suffix(".json").write_text(json.dumps(card))

    with pytest.raises(UnusableConfiguration, match=rf"model\.json has no valid {field}; export"):
        verify_file(model, mnist_dir)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[1, 2]", b"{", b'{"name": "x"}'])
def test_file_beside_the_model_that_is_no_card_is_refused(model, mnist_dir, content):
    model.with_suffix(".json").write_bytes(content)

    with pytest.raises(UnusableConfiguration, match=r"is damaged|has no model card"):
        verify_file(model, mnist_dir)
