"""Network file systems."""

from __future__ import annotations

import pytest

from mnist_search.storage.file_systems import network_file_system

MOUNTS = r"""
/dev/vda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/vdb /home/local ext4 rw 0 0
//server/share /mnt/my\040share cifs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/study.db", None),
        ("/home/me/study.db", "nfs4"),
        ("/home/local/study.db", None),
        ("/homes/study.db", None),
        ("/mnt/my share/study.db", "cifs"),
    ],
)
def test_type_is_that_of_the_innermost_mount(tmp_path, path, kind):
    (tmp_path / "mounts").write_text(MOUNTS)

    assert network_file_system(path, tmp_path / "mounts") == kind


def test_type_is_unknown_without_a_list_of_mounts(tmp_path):
    assert network_file_system(tmp_path, tmp_path / "no such file") is None
