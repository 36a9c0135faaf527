"""The published champions agree with their cards and do not need mnist-search."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import venv
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
import torch
from support import ROOT

from mnist_search.data import mnist
from mnist_search.export.formats import read_model
from mnist_search.training.model import count

FOLDER = ROOT / "experiments" / "champions"
CHAMPIONS = sorted(FOLDER.glob("*/"))
FILES = ("model.pt2", "model.onnx", "model.safetensors")


@pytest.fixture
def test_images(mnist_dir):
    mnist.verify(mnist_dir)
    return mnist_dir


def test_champion_of_the_readme_exists():
    assert FOLDER / "8000" in CHAMPIONS


@pytest.mark.parametrize("folder", CHAMPIONS, ids=lambda folder: folder.name)
def test_champion_is_within_its_budget_and_has_test_results(folder):
    card = json.loads((folder / "card.json").read_text())

    assert card["parameters"] <= card["budget"] == int(folder.name)
    assert card["n_seeds"] >= 5
    assert card["test_accuracy_low"] <= card["test_accuracy_mean"] <= card["test_accuracy_high"]
    assert card["test_accuracy_sd"] > 0
    for name in FILES:
        assert (folder / name).stat().st_size < 300_000
        network = read_model(folder / name)
        assert name.endswith("onnx") or count(network) == card["parameters"]
    assert f"{card['parameters']:,} learned parameters" in (folder / "card.md").read_text()


def test_leaderboard_of_the_readme_equals_that_of_the_store(command, tmp_path):
    readme = FOLDER.parent / "README.md"
    shutil.copy(FOLDER.parent / "measured" / "studies.db", tmp_path / "mnist-search.db")
    shutil.copy(readme, tmp_path / "README.md")

    written = command("leaderboard", "README.md")

    assert written.code == 0, written.err
    assert (tmp_path / "README.md").read_text() == readme.read_text()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("folder", CHAMPIONS, ids=lambda folder: folder.name)
def test_champion_file_contains_no_path_of_the_exporting_machine(folder, name):
    content = (folder / name).read_bytes()

    assert b"weight" in content
    assert b"mnist_search/" not in content
    assert b"site-packages" not in content


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("folder", CHAMPIONS, ids=lambda folder: folder.name)
def test_champion_file_is_verified(command, test_images, folder, name):
    verified = command("verify", folder / name, "--data-dir", test_images, "--format", "json")

    assert verified.code == 0, verified.err
    document = json.loads(verified.out)
    assert document["test_accuracy"] == pytest.approx(document["test_accuracy_on_card"], abs=1.01e-4)


@pytest.mark.slow
@pytest.mark.parametrize("folder", CHAMPIONS, ids=lambda folder: folder.name)
def test_every_format_returns_the_logits_of_the_trained_network_on_all_test_images(test_images, folder):
    images = mnist.read_test(test_images)[0].reshape(-1, 1, 28, 28)
    pixels = torch.from_numpy(images.astype(np.float32) / 255)
    with torch.no_grad():
        expected = read_model(folder / "model.safetensors")(pixels)
        others = [read_model(folder / name)(pixels) for name in ("model.pt2", "model.onnx")]

    assert len(expected) == 10_000
    for logits in others:
        assert (logits - expected).abs().max() < 1e-4
        assert (logits.argmax(1) == expected.argmax(1)).all()


def bare_environment(folder: Path) -> Path:
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


def standalone_accuracy(python: Path, network: Path, mnist: Path) -> float:
    command = [python, "-I", ROOT / "tests" / "standalone_eval.py", network, mnist]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=python.parent)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_onnx_file_needs_onnxruntime_and_numpy_only(test_images, tmp_path):
    python = bare_environment(tmp_path / "environment")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "onnxruntime", "numpy"], check=True)

    for folder in CHAMPIONS:
        expected = json.loads((folder / "card.json").read_text())["test_accuracy"]
        assert standalone_accuracy(python, folder / "model.onnx", test_images) == pytest.approx(
            expected, abs=1.01e-4
        )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_pt2_file_needs_torch_only(test_images, tmp_path):
    python = bare_environment(tmp_path / "environment")
    for name in with_requirements("torch"):
        link_package(name, next((tmp_path / "environment" / "lib").glob("*/site-packages")))
    for absent in ("numpy", "mnist_search", "search_space", "torchvision", "mlflow"):
        assert subprocess.run(
            [python, "-I", "-c", f"import {absent}"], capture_output=True, check=False
        ).returncode

    for folder in CHAMPIONS:
        expected = json.loads((folder / "card.json").read_text())["test_accuracy"]
        assert standalone_accuracy(python, folder / "model.pt2", test_images) == pytest.approx(
            expected, abs=1.01e-4
        )


def with_requirements(name: str, names: frozenset[str] = frozenset()) -> frozenset[str]:
    """Names of a package and of all its requirements on this machine, without extras."""
    names |= {name}
    for line in distribution(name).requires or ():
        requirement = re.match(r"[\w.-]+", line)
        required = requirement and "extra ==" not in line and applies(line)
        if requirement and required and requirement.group() not in names:
            names = with_requirements(requirement.group(), names)
    return names


def applies(requirement: str) -> bool:
    from packaging.requirements import Requirement

    marker = Requirement(requirement).marker
    return marker is None or marker.evaluate()


def link_package(name: str, site: Path) -> None:
    """Link a package of this environment into another one, which saves gigabytes of downloads."""
    package = distribution(name)
    for top in {Path(file).parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
        if not (site / top).exists():
            (site / top).symlink_to(str(package.locate_file(top)))


def test_standalone_evaluation_imports_no_project_package():
    imports = re.findall(
        r"^\s*(?:import|from) (\w+)", (ROOT / "tests" / "standalone_eval.py").read_text(), re.MULTILINE
    )

    assert set(imports) <= {*sys.stdlib_module_names, "numpy", "onnxruntime", "torch"}
