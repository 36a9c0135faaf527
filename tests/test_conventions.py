"""Project conventions: import contract, file sizes, unsafe loading, documents, wheel contents."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from support import ROOT

from mnist_search.cli.app import app
from mnist_search.storage.tables import metadata

README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "mnist_search" / "README.md").read_text()
DOCUMENTS = sorted(
    p for folder in (".", ".github", "experiments", "mnist_search") for p in (ROOT / folder).glob("*.md")
)
SOURCES = [
    path
    for package in ("search_space", "experiments", "mnist_search")
    for path in (ROOT / package).rglob("*.py")
]
MAX_LINES = 350
VAGUE_WORDS = ("Manager", "Handler", "Orchestrator", "Engine", "utils", "common", "helpers")
# Calls that can execute code from a file; no source may contain one.
UNSAFE = r"pickle\.load|weights_only=False|joblib|yaml\.load\(|(?<!safetensors\.)torch\.(load|save)\(|(?<![\w.])(eval|exec)\("


def test_import_contract_holds():
    program = Path(sys.executable).parent / "lint-imports"

    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_source_files_stay_short():
    lengths = {path: len(path.read_text().splitlines()) for path in SOURCES}

    assert {path: length for path, length in lengths.items() if length > MAX_LINES} == {}


def test_names_are_not_vague():
    names = [name for path in SOURCES for name in [path.stem, *public_names(path)]]

    assert [name for name in names if any(word in name for word in VAGUE_WORDS)] == []


def public_names(path):
    return re.findall(r"^(?:class|def) (\w+)", path.read_text(), re.MULTILINE)


def test_sources_do_not_load_code_with_data():
    assert [path for path in SOURCES if re.search(UNSAFE, path.read_text())] == []


def first_commands():
    blocks = re.findall(r"```(?:sh|console|bash)\n(.*?)```", README, re.DOTALL)
    return [block.strip() for block in blocks[:2]]


def test_readme_starts_with_two_self_contained_commands():
    search, tests = first_commands()

    for command in (search, tests):
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install ")
        assert "\n" not in command
    assert search.endswith("mnist-search run --budget 8000 --trials 50")
    assert tests.endswith("pytest")


def test_ci_script_runs_the_test_command_of_the_readme():
    assert first_commands()[1] in (ROOT / ".ci" / "run").read_text().splitlines()


def test_readme_lists_every_verb():
    verbs = {command.name or command.callback.__name__ for command in app.registered_commands}

    assert {verb for verb in verbs if f"`{verb}" not in README} == set()


def test_main_documents_stay_short():
    assert len(README.splitlines()) <= 150
    assert len(ARCHITECTURE.splitlines()) <= 200


def test_architecture_page_lists_every_table_and_column():
    columns = {f"{table.name}.{column.name}" for table in metadata.sorted_tables for column in table.columns}

    missing = {name for name in columns if not all(f"`{part}`" in ARCHITECTURE for part in name.split("."))}
    assert missing == set()


def test_files_named_by_the_architecture_page_exist():
    paths = re.findall(r"`([\w./-]+\.(?:py|md|json|html|toml))`", ARCHITECTURE)

    assert [
        path for path in paths if not any((base / path).exists() for base in (ROOT, ROOT / "mnist_search"))
    ] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_resolve(path):
    links = re.findall(r"\]\((?!https?://)([^)#]*)(?:#([^)]+))?\)", path.read_text())

    targets = [((path.parent / file) if file else path, anchor) for file, anchor in links]
    assert [target for target, _ in targets if not target.exists()] == []
    assert [(target, anchor) for target, anchor in targets if anchor and anchor not in anchors(target)] == []


def anchors(document):
    """Anchors of a document's headings, as GitHub derives them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_changelog_has_a_section_for_the_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_baseline_states_source_cost_and_reported_result():
    for path in sorted((ROOT / "experiments").glob("seed_*.py")):
        docstring = path.read_text().split('"""')[1]
        assert all(word in docstring for word in ("Source: ", "Cost: ", "Reported: ", "Command: "))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_wheel_omits_research_and_measured_results(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    names = zipfile.ZipFile(*tmp_path.glob("*.whl")).namelist()
    assert "mnist_search/cli/app.py" in names
    assert [name for name in names if "research" in name or "measured" in name] == []
