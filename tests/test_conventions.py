"""Conventions that a test can check: layers, file sizes, documents."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_search.cli.app import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PACKAGES = ("search_space", "experiments", "mnist_search")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
FORBIDDEN_WORDS = ("Manager", "Handler", "Orchestrator", "Engine", "utils", "common", "helpers")


def test_the_import_contract_holds():
    program = Path(sys.executable).parent / "lint-imports"

    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_outgrows_its_noun(path):
    text = path.read_text()

    assert len(text.splitlines()) <= 350
    names = [*re.findall(r"^(?:class|def) (\w+)", text, re.MULTILINE), path.stem]
    assert not [name for name in names for word in FORBIDDEN_WORDS if word in name]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_loads_code_with_data(path):
    text = path.read_text()

    for unsafe in ("pickle.load", "weights_only=False", "joblib", "yaml.load(", "torch.load(", "torch.save("):
        assert unsafe not in text
    assert not re.search(r"(?<![\w.])(eval|exec)\(", text)


def first_commands():
    blocks = re.findall(r"```(?:sh|console|bash)\n(.*?)```", README, re.DOTALL)
    return [block.strip() for block in blocks[:2]]


def test_the_readme_begins_with_two_commands_that_set_themselves_up():
    main, tests = first_commands()

    for command in (main, tests):
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install ")
        assert "\n" not in command
    assert main.endswith("mnist-search run --budget 8000 --trials 50")
    assert tests.endswith("pytest")


def test_ci_calls_the_readmes_test_command():
    assert first_commands()[1] in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_readme_tells_every_verb():
    verbs = {command.callback.__name__ for command in app.registered_commands}

    assert {verb for verb in verbs if f"`{verb}" not in README} == set()


@pytest.mark.parametrize("path", [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "experiments").glob("*.md"))])
def test_no_link_between_documents_is_broken(path):
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text())

    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_changelog_has_this_version():
    from mnist_search import __version__

    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert f"## {__version__}" in changelog or "## Unreleased" in changelog


def test_every_seed_names_source_cost_and_claim():
    for path in sorted((ROOT / "experiments").glob("seed_*.py")):
        docstring = path.read_text().split('"""')[1]
        assert all(word in docstring for word in ("Source: ", "Cost: ", "Claim: ", "Command: "))
