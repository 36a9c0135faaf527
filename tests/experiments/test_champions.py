"""The published champions are what their cards say, and need nothing of ours."""

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
from support import ROOT

from mnist_search.data import mnist
from mnist_search.export import formats

FOLDER = ROOT / "experiments" / "champions"
CHAMPIONS = sorted(FOLDER.glob("*/"))
FILES = ("model.pt2", "model.onnx", "model.safetensors")


@pytest.fixture
def test_images(mnist_dir):
    mnist.verify(mnist_dir)
    return mnist_dir


def test_there_is_one_for_the_budget_of_the_readme():
    assert FOLDER / "8000" in CHAMPIONS


@pytest.mark.parametrize("folder", CHAMPIONS, ids=lambda folder: folder.name)
def test_a_champion_fits_its_budget_and_has_its_evidence(folder):
    card = json.loads((folder / "card.json").read_text())

    assert card["parameters"] <= card["budget"] == int(folder.name)
    assert card["n_seeds"] >= 5
    assert card["test_accuracy_low"] <= card["test_accuracy_mean"] <= card["test_accuracy_high"]
    assert card["test_accuracy_sd"] > 0
    for name in FILES:
        assert (folder / name).stat().st_size < 300_000
        assert formats.read(folder / name).parameters in {None, card["parameters"]}
    assert f"{card['parameters']:,} learned parameters" in (folder / "card.md").read_text()


def test_the_leaderboard_of_the_log_is_written_from_the_store_beside_it(command, tmp_path):
    log = FOLDER.parent / "README.md"
    shutil.copy(FOLDER.parent / "measured" / "studies.db", tmp_path / "mnist-search.db")
    shutil.copy(log, tmp_path / "log.md")

    written = command("leaderboard", "log.md")

    assert written.code == 0, written.err
    assert (tmp_path / "log.md").read_text() == log.read_text()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("folder", CHAMPIONS, ids=lambda folder: folder.name)
def test_a_champion_tells_no_path_of_the_machine_that_made_it(folder, name):
    content = (folder / name).read_bytes()

    assert b"weight" in content
    assert b"mnist_search/" not in content
    assert b"site-packages" not in content


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("folder", CHAMPIONS, ids=lambda folder: folder.name)
def test_a_champion_verifies(command, test_images, folder, name):
    verified = command("verify", folder / name, "--data-dir", test_images, "--format", "json")

    assert verified.code == 0, verified.err
    told = json.loads(verified.out)
    assert told["test_accuracy"] == pytest.approx(told["test_accuracy_on_card"], abs=1.01e-4)


@pytest.mark.slow
@pytest.mark.parametrize("folder", CHAMPIONS, ids=lambda folder: folder.name)
def test_every_format_answers_as_the_trained_network_does_on_all_test_images(test_images, folder):
    images = mnist.read_test(test_images)[0].reshape(-1, 1, 28, 28)
    pixels = images.astype(np.float32) / 255
    trained = formats.read(folder / "model.safetensors").logits(pixels)

    assert len(trained) == 10_000
    for name in ("model.pt2", "model.onnx"):
        logits = formats.read(folder / name).logits(pixels)
        assert np.abs(logits - trained).max() < 1e-4
        assert (logits.argmax(1) == trained.argmax(1)).all()


def bare_environment(folder: Path) -> Path:
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


def judged_alone(python: Path, network: Path, mnist: Path) -> float:
    command = [python, "-I", ROOT / "tests" / "standalone_eval.py", network, mnist]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=python.parent)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_onnxruntime_and_numpy_are_enough(test_images, tmp_path):
    python = bare_environment(tmp_path / "environment")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "onnxruntime", "numpy"], check=True)

    for folder in CHAMPIONS:
        told = json.loads((folder / "card.json").read_text())["test_accuracy"]
        assert judged_alone(python, folder / "model.onnx", test_images) == pytest.approx(told, abs=1.01e-4)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_torch_alone_is_enough(test_images, tmp_path):
    python = bare_environment(tmp_path / "environment")
    for name in with_requirements("torch"):
        lend(name, next((tmp_path / "environment" / "lib").glob("*/site-packages")))
    for absent in ("numpy", "mnist_search", "search_space", "torchvision", "mlflow"):
        assert subprocess.run(
            [python, "-I", "-c", f"import {absent}"], capture_output=True, check=False
        ).returncode

    for folder in CHAMPIONS:
        told = json.loads((folder / "card.json").read_text())["test_accuracy"]
        assert judged_alone(python, folder / "model.pt2", test_images) == pytest.approx(told, abs=1.01e-4)


def with_requirements(name: str, found: frozenset[str] = frozenset()) -> frozenset[str]:
    """A package and all that it requires here, by name; what an extra asks for is left out."""
    found |= {name}
    for line in distribution(name).requires or ():
        needed = re.match(r"[\w.-]+", line)
        wanted = needed and "extra ==" not in line and applies(line)
        if needed and wanted and needed.group() not in found:
            found = with_requirements(needed.group(), found)
    return found


def applies(requirement: str) -> bool:
    from packaging.requirements import Requirement

    marker = Requirement(requirement).marker
    return marker is None or marker.evaluate()


def lend(name: str, site: Path) -> None:
    """Link a package of this environment into another one, instead of gigabytes of downloads."""
    package = distribution(name)
    for top in {Path(file).parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
        if not (site / top).exists():
            (site / top).symlink_to(str(package.locate_file(top)))


def test_this_environment_has_all_that_torch_requires():
    assert {"torch", "sympy", "filelock"} <= with_requirements("torch")
    assert "mnist-search" not in with_requirements("torch")


def test_the_judge_imports_nothing_of_ours():
    imports = re.findall(
        r"^\s*(?:import|from) (\w+)", (ROOT / "tests" / "standalone_eval.py").read_text(), re.MULTILINE
    )

    assert set(imports) <= {*sys.stdlib_module_names, "numpy", "onnxruntime", "torch"}
