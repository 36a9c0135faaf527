"""Files that users keep: read and written as UTF-8, and replaced as a whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path

from mnist_search.errors import DiskError, NotFound


def read_text(path: Path, advice: str) -> str:
    """The text of a file; ``write_file`` restores bytes that are not UTF-8.

    Raises:
        NotFound: no such file; ``advice`` is the next step for the user.
        DiskError: it cannot be read.
    """
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        raise NotFound(f"no file {path}; {advice}") from None
    except OSError as error:
        raise DiskError(f"cannot read {path}: {error.strerror or error}; {advice}") from error


def write_file(path: Path, content: str | bytes, advice: str) -> None:
    """Write a file in one step: a reader, or a later command after a crash, finds the old or the new content.

    A symbolic link remains, and its target is replaced. Permissions are kept. A device is written directly.

    Raises:
        DiskError: the file cannot be written; the old one is unchanged, and no partial file is left.
            ``advice`` is the next step for the user.
    """
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)  # /dev/stdout; a folder raises
        else:
            _replace(Path(os.path.realpath(path)), data)
    except OSError as error:
        raise DiskError(f"cannot write {path}: {error.strerror or error}; {advice}") from error


def temporary_beside(path: Path) -> Path:
    """A new name in the folder of a file, so that the file can be renamed or linked in one step."""
    return path.with_name(f".mnist-search-{os.getpid()}-{secrets.token_hex(4)}.new")


def _replace(path: Path, data: bytes) -> None:
    permissions = path.stat().st_mode & 0o777 if path.exists() else None
    if permissions is not None and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    temporary = temporary_beside(path)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if permissions is not None:
            with suppress(PermissionError):  # some network file systems have no permissions
                temporary.chmod(permissions)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Write the folder's entries to disk, where the file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
