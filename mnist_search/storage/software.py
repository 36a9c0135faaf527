"""Versions of the software that trains a trial."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The checkout, or the folder in which the package is installed."""

GIT_SECONDS = 10.0


@cache
def software() -> dict[str, str]:
    """The version of torch and, in a checkout, the git commit of the project."""
    versions = {"torch": metadata.version("torch")}
    commit = git_commit(ROOT)
    return versions | ({"commit": commit} if commit else {})


def git_commit(folder: Path) -> str | None:
    """The commit of a checkout, with the suffix ``-dirty`` if files differ from it; None for another folder."""
    if not (folder / ".git").exists():  # a folder above it may be the user's repository
        return None
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        process = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=GIT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):  # no git on this machine
        return None
    return process.stdout.strip() or None
