"""File systems on which SQLite's locks are not reliable."""

from __future__ import annotations

import os
import re
from pathlib import Path

NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "lustre", "fuse.sshfs"}
"""Types whose locks are missing or advisory at best (sqlite.org/howtocorrupt.html, 2.1)."""


def network_file_system(path: Path, mounts: Path = Path("/proc/mounts")) -> str | None:
    """The type of the network file system that has a path; None for a local one, or where it is not known."""
    try:
        lines = mounts.read_text("utf-8", "replace").splitlines()
    except OSError:  # not Linux
        return None
    resolved = os.path.realpath(path)
    points = [(_unescaped(fields[1]), fields[2]) for line in lines if len(fields := line.split()) > 2]
    above = [(point, kind) for point, kind in points if (resolved + "/").startswith(point.rstrip("/") + "/")]
    kind = max(above, key=lambda mount: len(mount[0]), default=("", ""))[1]
    return kind if kind in NETWORK else None


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
