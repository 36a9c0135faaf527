"""Verbs on a study that plain Optuna has made or copied: one line, and nothing changes."""

from __future__ import annotations

import optuna
import pytest

from mnist_search.cli.app import run_cli

VERBS = [
    ("status", "other"), ("trials", "other"), ("best", "other"), ("explain", "other", "0"), ("finals", "other"),
    ("export", "other"), ("report", "other", "--no-mlflow"), ("resume", "other"), ("finalize", "other"),
    ("enqueue", "other", "--baseline", "seed-001"),
]  # fmt: skip


@pytest.fixture
def storage(store):
    """A store with a study of Optuna that has one trial."""
    study = optuna.create_study(study_name="other", storage=store.storage, direction="maximize")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    return store.url


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_study_of_plain_optuna_is_one_line_on_every_verb(storage, capsys, verb):
    capsys.readouterr()

    code = run_cli([*verb, "--storage", storage])

    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if not line.startswith("[I ")]
    assert (code, printed.out, len(errors)) == (78, "", 1)
    assert "'other' is not a search study of mnist-search; create one with --study NAME" in errors[0]


@pytest.mark.parametrize("verb", ["studies", "compare"])
def test_verbs_over_all_studies_leave_it_out(storage, capsys, verb):
    capsys.readouterr()

    code = run_cli([verb, "--storage", storage, "--format", "csv"])

    printed = capsys.readouterr()
    assert code == 0
    assert "other" not in printed.out


def test_copy_of_a_search_study_without_its_attributes_is_one_line(store, study_config, capsys):
    from mnist_search.search.study import SearchStudy

    SearchStudy.open_or_create(store, "s", study_config, 1)
    source = optuna.load_study(study_name="s", storage=store.storage)
    optuna.create_study(study_name="copy", storage=store.storage, direction="maximize").set_user_attr(
        "experiment", source.user_attrs["experiment"]
    )
    capsys.readouterr()

    code = run_cli(["status", "copy", "--storage", store.url])

    errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("[I ")]
    assert code == 78
    assert len(errors) == 1
