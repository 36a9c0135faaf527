"""Files that users keep: replaced as a whole, in UTF-8, or left as they are."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from mnist_search.errors import DiskError, NotFound
from mnist_search.files import read_text, write_file

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""Environment of a process whose locale has no characters outside ASCII."""


@pytest.fixture
def small_files():
    """Let this process write no file of more than 64 KiB, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_new_file_has_the_content_and_the_default_permissions(tmp_path):
    write_file(tmp_path / "page.html", "naïve ✓", "")
    (tmp_path / "other").touch()

    assert (tmp_path / "page.html").read_bytes() == "naïve ✓".encode()
    assert (tmp_path / "page.html").stat().st_mode == (tmp_path / "other").stat().st_mode
    assert names(tmp_path) == ["other", "page.html"]


@pytest.mark.usefixtures("small_files")
def test_file_is_unchanged_when_the_disk_is_full(tmp_path):
    (tmp_path / "page.html").write_text("old")

    with pytest.raises(DiskError, match=r"cannot write .*page\.html: File too large; name another file"):
        write_file(tmp_path / "page.html", "x" * 100_000, "name another file")

    assert (tmp_path / "page.html").read_text() == "old"
    assert names(tmp_path) == ["page.html"]


def test_permissions_of_an_older_file_are_kept(tmp_path):
    (tmp_path / "page.html").touch(0o640)

    write_file(tmp_path / "page.html", "new", "")

    assert (tmp_path / "page.html").stat().st_mode & 0o777 == 0o640


def test_symbolic_link_remains_and_its_target_is_replaced(tmp_path):
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "page.html").write_text("old")
    (tmp_path / "link.html").symlink_to("pages/page.html")

    write_file(tmp_path / "link.html", "new", "")

    assert (tmp_path / "link.html").is_symlink()
    assert (tmp_path / "pages" / "page.html").read_text() == "new"


def test_pipe_is_written_directly(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(
        [sys.executable, "-c", "print(open('pipe').read())"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )

    write_file(tmp_path / "pipe", "content", "")

    assert reader.communicate(timeout=60)[0] == "content\n"
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("name", ["missing/page.html", "folder"])
def test_impossible_name_is_a_disk_error(tmp_path, name):
    (tmp_path / "folder").mkdir()

    with pytest.raises(DiskError, match="cannot write"):
        write_file(tmp_path / name, "new", "")
    assert names(tmp_path) == ["folder"]


def test_text_that_is_not_utf_8_is_read_and_written_unchanged(tmp_path):
    content = b"caf\xe9\r\ncaf\xc3\xa9\r\n"
    (tmp_path / "notes.md").write_bytes(content)

    write_file(tmp_path / "notes.md", read_text(tmp_path / "notes.md", ""), "")

    assert (tmp_path / "notes.md").read_bytes() == content


def test_file_that_cannot_be_read_is_a_disk_error(tmp_path):
    with pytest.raises(DiskError, match=r"cannot read .*: Is a directory; name another"):
        read_text(tmp_path, "name another file")


def test_missing_file_is_not_found(tmp_path):
    with pytest.raises(NotFound, match=r"no file .*notes\.md; name another"):
        read_text(tmp_path / "notes.md", "name another file")


def test_leaderboard_keeps_the_characters_of_a_file_in_an_ascii_locale(command, tmp_path):
    content = "naïve ✓\r\n<!-- leaderboard -->\nold\n<!-- end of leaderboard -->\ncafé\n"
    (tmp_path / "notes.md").write_bytes(content.encode())

    done = command("leaderboard", "notes.md", **ASCII)

    written = (tmp_path / "notes.md").read_bytes().decode()
    assert done.code == 0, done.err
    assert (written.splitlines()[0], written.splitlines()[-1]) == ("naïve ✓", "café")
    assert "seed-003" in written


def test_leaderboard_and_plot_are_unchanged_when_the_disk_is_full(tmp_path):
    content = "<!-- leaderboard -->\n<!-- end of leaderboard -->\n" + 70_000 * "x"
    (tmp_path / "notes.md").write_text(content)
    (tmp_path / "plot.html").write_text("old")
    limited = 'ulimit -f 64; exec "$0" -m mnist_search "$@"'

    for arguments in (["leaderboard", "notes.md"], ["compare", "--plot", "plot.html"]):
        done = subprocess.run(
            ["bash", "-c", limited, sys.executable, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (74, "", 1), done.stderr
    assert (tmp_path / "notes.md").read_text() == content
    assert (tmp_path / "plot.html").read_text() == "old"
    assert names(tmp_path) == ["notes.md", "plot.html"]
