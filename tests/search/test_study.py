"""Search studies of a store: creation and stored metadata."""

from __future__ import annotations

import optuna

from mnist_search.search.study import SearchStudy


def test_new_study_names_its_objective(store, study_config):
    search_study = SearchStudy.open_or_create(store, "s", study_config, n_trials=1)

    assert search_study.study.metric_names == ["validation accuracy"]


def test_study_without_named_objective_is_read_and_continued_unchanged(store, study_config):
    unnamed = optuna.create_study(study_name="s", storage=store.storage, direction="maximize")
    created = SearchStudy.open_or_create(store, "t", study_config, n_trials=1)
    for name, value in created.study.user_attrs.items():
        unnamed.set_user_attr(name, value if name != "uid" else "another")

    search_study = SearchStudy.open_or_create(store, "s", study_config, n_trials=2)

    assert search_study.study.metric_names is None
    assert search_study.claim().trial.number == 0
    assert search_study.record().n_trials == 2
