"""Versions of the software that trains a trial."""

from __future__ import annotations

import subprocess
from importlib import metadata

from support import ROOT

from mnist_search.storage.software import git_commit, software


def git(folder, *arguments):
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def test_trial_records_the_versions_of_its_attempt(store, study_config):
    from mnist_search.search.study import SearchStudy

    search_study = SearchStudy.open_or_create(store, "s", study_config, n_trials=1)

    search_study.claim()

    assert search_study.record().trials[0].software == software()
    assert software()["torch"] == metadata.version("torch")
    assert software().get("commit") == git_commit(ROOT)


def test_commit_of_a_checkout_says_whether_its_files_differ(tmp_path):
    git(tmp_path, "init", "--quiet")
    file = tmp_path / "file.txt"
    file.write_text("a")
    git(tmp_path, "add", "file.txt")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")

    assert git_commit(tmp_path) == commit
    file.write_text("b")
    assert git_commit(tmp_path) == f"{commit}-dirty"


def test_folder_inside_another_repository_has_no_commit(tmp_path):
    git(tmp_path, "init", "--quiet")
    (tmp_path / "site-packages").mkdir()

    assert git_commit(tmp_path / "site-packages") is None
