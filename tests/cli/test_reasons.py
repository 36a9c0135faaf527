"""Verbs state the right reason, number and order."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest
from finished import complete_trial, finish_finals
from optuna.trial import TrialState

from mnist_search.cli.output import print_fields, print_rows
from mnist_search.errors import NotFound, UsageError
from mnist_search.evaluation.champion import champion
from mnist_search.evaluation.statistics import confidence_interval
from mnist_search.records import EpochMetrics
from mnist_search.search.study import SearchStudy


@pytest.fixture
def search_study(store, study_config):
    """A study of two slots whose trials have two epochs."""
    return SearchStudy.open_or_create(store, "budget-1500", study_config, 2)


@pytest.fixture
def cli(command, tmp_path):
    """Run a verb on the store."""
    return lambda *arguments: command(*arguments, "--storage", f"sqlite:///{tmp_path}/store.db")


def finish(search_study, state, **attributes):
    """Finish the next trial after one epoch."""
    claim = search_study.claim()
    claim.trial.set_user_attr("num_params", 1000)
    search_study.queue.report(claim, EpochMetrics(epoch=1, val_accuracy=0.5, val_loss=float("inf")))
    search_study.queue.finish(claim, state, attributes=attributes)


def test_export_of_a_study_without_a_complete_trial_says_so(search_study, store):
    finish(search_study, TrialState.PRUNED, reason="asha pruner after epoch 1")

    with pytest.raises(
        NotFound, match=r"no complete trial yet \(1 of 2 trials done\); continue it with mnist-"
    ):
        champion(store, "budget-1500")


@pytest.mark.parametrize(
    ("number", "reason"),
    [(0, "is FAIL, and only complete"), (1, "is RUNNING, and only complete"), (7, "has no trial 7")],
)
def test_export_of_a_trial_without_weights_names_its_state(search_study, store, number, reason):
    finish(search_study, TrialState.FAIL, reason="diverged")
    search_study.claim()

    with pytest.raises(NotFound, match=f"{reason}.*; see mnist-search trials budget-1500"):
        champion(store, "budget-1500", number)


def test_enqueue_states_the_parameters_before_the_projection(store, study_config, cli):
    SearchStudy.open_or_create(store, "small", study_config, 2)
    large = study_config.for_budget(20_000, epochs=2)
    SearchStudy.open_or_create(store, "large", large, 2)

    refused, added = (cli("enqueue", study, "--baseline", "seed-001") for study in ("small", "large"))

    assert refused.code == UsageError.exit_code
    assert re.search(
        r"of [\d,]+ parameters \(7,204 before the projection to the search space\) is over", refused.err
    )
    assert added.code == 0, added.err
    parameters = re.search(r"([\d,]+) parameters", added.out)[1]
    assert ("(7,204 before the projection" in added.out) == (parameters != "7,204")
    assert added.err == ""


def test_explain_and_trials_show_the_epochs_that_were_trained(search_study, cli):
    finish(search_study, TrialState.PRUNED, reason="asha pruner after epoch 1")

    explanation = json.loads(cli("explain", "budget-1500", "0", "-f", "json").out)
    (row,) = json.loads(cli("trials", "budget-1500", "-f", "json").out)

    assert (explanation["epochs"], len(explanation["curve"]), row["epochs"]) == (1, 1, 1)


def test_numbers_that_json_lacks_are_null(search_study, cli):
    finish(search_study, TrialState.FAIL, reason="diverged")

    out = cli("explain", "budget-1500", "0", "-f", "json").out

    (epoch,) = json.loads(out, parse_constant=pytest.fail)["curve"]
    assert epoch["val_loss"] is None


def test_leaderboard_is_sorted_by_accuracy_and_lists_no_empty_study(store, study_config, search_study, cli):
    SearchStudy.open_or_create(store, "empty", study_config, 2)
    for accuracy in (0.97, 0.98):
        complete_trial(search_study, accuracy)
    best = SearchStudy.open_or_create(store, "best", study_config, 1)
    complete_trial(best, 0.9999)
    finish_finals(store, search_study.record(), (0.991, 0.992), top=1, seeds=2)

    table = cli("leaderboard").out

    rows = [line.split("|") for line in table.splitlines()[2:]]
    accuracies = [float(row[3].split()[0]) for row in rows]
    assert accuracies == sorted(accuracies, reverse=True)
    assert rows[0][1].strip() == "best"
    assert "budget-1500" in table
    assert "empty" not in table
    assert "None" not in table


@pytest.mark.parametrize("accuracies", [(0.99, 1.0), (0.0, 0.01), (1.0, 1.0)])
def test_interval_of_two_seeds_is_within_0_and_1(accuracies):
    low, high = confidence_interval(accuracies)

    assert 0 <= low <= min(accuracies)
    assert max(accuracies) <= high <= 1


def test_status_as_csv_has_one_value_per_line(search_study, cli):
    complete_trial(search_study, 0.97)

    rows = dict(csv.reader(io.StringIO(cli("status", "-f", "csv").out)))

    assert (rows["study"], rows["best.number"], rows["best.val_accuracy"]) == ("budget-1500", "0", "0.97")
    assert not [value for value in rows.values() if "{" in value]


def test_every_verb_that_prints_a_document_prints_no_python_object_as_csv(search_study, cli):
    complete_trial(search_study, 0.97)

    for arguments in (("best", "budget-1500"), ("explain", "budget-1500", "0"), ("studies",)):
        assert "{" not in cli(*arguments, "-f", "csv").out


def test_nested_values_are_flattened_in_csv_and_lists_are_json(capsys):
    print_fields({"a": {"b": {"c": 1}, "d": None}, "e": [1, 2]}, "csv")
    print_rows([{"name": "x", "values": [0.5, float("nan")]}], "csv", ["name", "values"])

    out = capsys.readouterr().out
    assert out == 'a.b.c,1\na.d,\ne,"[1, 2]"\nname,values\nx,"[0.5, null]"\n'


def test_rows_and_documents_are_masked(capsys):
    url = "http://user:secret@host"
    for output_format in ("table", "json", "csv"):
        print_fields({"reason": url, "nested": {"reason": url}}, output_format)
        print_rows([{"reason": url}], output_format, ["reason"])

    out = capsys.readouterr().out
    assert "secret" not in out
    assert out.count("user:***@host") == 9
