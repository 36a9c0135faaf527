"""Stores that version 0.1.0 (commit 08eb057) wrote are read, converted and continued."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sqlite3
import subprocess
import sys

import pytest
import sqlalchemy as sa
from safetensors.numpy import load_file
from support import ROOT, digest

from mnist_search.cli.app import run_cli
from mnist_search.errors import TryAgain
from mnist_search.search.study import SearchStudy
from mnist_search.storage import finals as stored_finals
from mnist_search.storage import weights
from mnist_search.storage.database import Store
from mnist_search.storage.finals import FinalsStudy, finals_uid
from mnist_search.storage.studies import CONFIG_ATTR, UID_ATTR, mnist_search_studies
from mnist_search.storage.tables import leases, old_finals

URL = "sqlite:///mnist-search.db"
ASSETS = ROOT / "tests" / "assets"


@pytest.fixture
def small_store(tmp_path):
    """Three trials: budget 1500, 2 epochs, seed 7, no pruner, 1,000 and 500 images, no warm start."""
    shutil.copy(ASSETS / "small-08eb057.db", tmp_path / "mnist-search.db")


@pytest.fixture
def large_store(tmp_path):
    """Three studies with finals of two of them and the reproductions; weights of one trial and one final."""
    shutil.copy(ASSETS / "store-08eb057.db", tmp_path / "mnist-search.db")


@pytest.fixture
def verb(capsys):
    """Run a verb in this process; what it prints."""

    def call(*arguments):
        capsys.readouterr()
        code = run_cli(arguments)
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return captured.out

    return call


def results(verb):
    """What the verbs that show finals print for the large store."""
    verbs = [("finals", "budget-8000"), ("finals", "budget-7204"), ("compare",)]
    return [*(json.loads(verb(*each, "--format", "json")) for each in verbs), verb("leaderboard")]


def finals_of(store, study):
    """Finals by their tasks: everything but names and keys, which a conversion changes."""
    uid = str(SearchStudy.open(store, study).study.user_attrs[UID_ATTR])
    record = stored_finals.load(store, f"{study}.finals", uid)
    assert record is not None
    keys = (
        "state",
        "test_accuracy",
        "test_loss",
        "curve",
        "run_id",
        "seconds",
        "device",
        "version",
        "num_params",
    )
    return [(trial.task, *(getattr(trial, key) for key in keys)) for trial in record.trials]


def trials_of(command, study):
    return json.loads(command("trials", study, "--format", "json").out)


@pytest.mark.slow
@pytest.mark.usefixtures("small_store")
def test_run_continues_an_older_study_under_its_stored_options(command, mnist_dir):
    done = command("run", "--budget", "1500", "--trials", "4", "--no-mlflow", "--data-dir", mnist_dir)

    assert done.code == 0, done.err
    trials = trials_of(command, "budget-1500")
    assert [trial["state"] for trial in trials] == ["COMPLETE"] * 4
    assert [trial["epochs"] for trial in trials] == [2] * 4


@pytest.mark.usefixtures("small_store")
def test_run_refuses_a_given_option_that_differs_from_the_stored_one(command):
    done = command("run", "--budget", "1500", "--trials", "4", "--epochs", "3", "--seed", "7")

    assert done.code == 65
    assert "epochs is 2, not 3" in done.err
    assert "seed" not in done.err
    assert len(trials_of(command, "budget-1500")) == 3


@pytest.mark.usefixtures("small_store")
def test_run_without_trials_keeps_the_stored_number(command):
    done = command("run", "--budget", "1500", "--no-mlflow")

    assert done.code == 0, done.err
    assert len(trials_of(command, "budget-1500")) == 3


@pytest.mark.usefixtures("large_store")
def test_finished_older_study_is_a_no_op_under_newer_defaults(command):
    done = command("run", "--budget", "8000", "--trials", "20", "--no-mlflow")

    assert done.code == 0, done.err
    assert len(trials_of(command, "budget-8000")) == 20


@pytest.mark.usefixtures("large_store")
def test_finals_and_compare_read_an_older_store(command):
    finals = json.loads(command("finals", "budget-8000", "--format", "json").out)
    rows = json.loads(command("compare", "--format", "json").out)

    assert [row["name"] for row in finals] == ["trial 0", "trial 19", "trial 4"]
    assert {row["n_seeds"] for row in finals} == {5}
    assert {"budget-8000", "budget-4000", "budget-7204", "seed-000"} <= {row["name"] for row in rows}


@pytest.mark.slow
@pytest.mark.usefixtures("large_store")
def test_an_older_champion_is_exported_and_verified(command, mnist_dir, tmp_path):
    exported = command("export", "budget-8000", "--to", "safetensors")
    verified = command("verify", "budget-8000.safetensors", "--data-dir", mnist_dir, "--format", "json")

    assert exported.code == 0, exported.err
    assert verified.code == 0, verified.err
    card = json.loads((tmp_path / "budget-8000.json").read_text())
    document = json.loads(verified.out)
    assert document["parameters"] == card["parameters"]
    assert document["test_accuracy"] == pytest.approx(card["test_accuracy"], abs=2e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("large_store")
def test_a_report_of_an_older_study_holds_its_trials_and_finals(command, mnist_dir, tmp_path):
    done = command("report", "budget-8000", "--no-mlflow", "--data-dir", mnist_dir)

    assert done.code == 0, done.err
    page = (tmp_path / "report.html").read_text()
    assert "trial 19" in page


@pytest.mark.usefixtures("large_store")
@pytest.mark.parametrize("output_format", ["table", "json", "csv"])
def test_read_verbs_do_not_change_an_older_store(verb, tmp_path, output_format):
    before = digest(tmp_path)

    for name in ("status", "studies", "compare"):
        assert verb(name, "--format", output_format)
    for name in ("status", "trials", "best", "finals"):
        assert verb(name, "budget-8000", "--format", output_format)
    assert verb("explain", "budget-8000", "19", "--format", output_format)
    assert "budget-8000" in verb("leaderboard")
    assert digest(tmp_path) == before


@pytest.mark.usefixtures("small_store")
def test_read_verbs_do_not_change_an_older_store_without_finals(verb, tmp_path):
    before = digest(tmp_path)

    for arguments in (["studies"], ["compare"], ["trials", "budget-1500"], ["best", "budget-1500"]):
        assert verb(*arguments)
    curve = json.loads(verb("explain", "budget-1500", "0", "--format", "json"))["curve"]
    assert [metrics["epoch"] for metrics in curve] == [1, 2]
    with pytest.raises(AssertionError, match="has no finals yet"):
        verb("finals", "budget-1500")
    assert digest(tmp_path) == before


@pytest.mark.usefixtures("large_store")
def test_run_converts_finals_to_studies_with_the_same_rows(command, verb):
    before, finals_before = results(verb), finals_of(Store.open(URL), "budget-8000")
    first = weights.of_trial(Store.open(URL), -1, "trial 0, seed 0")

    done = command("run", "--budget", "8000", "--trials", "20", "--no-mlflow")

    assert done.code == 0, done.err
    assert results(verb) == before
    store = Store.open(URL)
    assert not store.has_table(old_finals)
    assert finals_of(store, "budget-8000") == finals_before
    converted = {name: FinalsStudy.open(store, f"{name}.finals").record() for name in FINALS}
    assert {name: len(record.trials) for name, record in converted.items()} == FINALS
    uid = str(SearchStudy.open(store, "budget-8000").study.user_attrs[UID_ATTR])
    assert converted["budget-8000"].uid == finals_uid(uid)
    assert FinalsStudy.open(store, "budget-8000.finals").queue.kept_weights() == {
        converted["budget-8000"].trials[0].trial_id: first
    }
    formats = {json.loads(s.user_attrs[CONFIG_ATTR])["format"] for s in mnist_search_studies(store)}
    assert formats == {2}  # version 0.1 reads format 1


FINALS = {"budget-8000": 15, "budget-7204": 5, "baselines": 30}
"""Finals of the large store, with the number of their trials."""


@pytest.mark.usefixtures("large_store")
def test_finalize_of_finished_older_finals_trains_nothing(command, verb, mnist_dir):
    before = results(verb)

    done = command(
        "finalize", "budget-8000", "--top", "3", "--seeds", "5", "--no-mlflow", "--data-dir", mnist_dir,
        "--format", "json",
    )  # fmt: skip

    assert done.code == 0, done.err
    assert json.loads(done.out) == before[0]
    assert results(verb) == before
    assert len(FinalsStudy.open(Store.open(URL), "budget-8000.finals").record().trials) == 15


CONVERT_AND_EXIT = """
import os, sys
import sqlalchemy as sa
from mnist_search.storage.database import Store
left = int(sys.argv[1])
def exit_at_commit(_):
    global left
    left -= 1
    if not left:
        os._exit(9)
sa.event.listen(sa.Engine, "commit", exit_at_commit)
Store.open(sys.argv[2], write=True)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("large_store")
def test_interrupted_conversion_is_continued(verb):
    before = results(verb)

    for commits in (1, 4, 30, 80):
        killed = subprocess.run([sys.executable, "-c", CONVERT_AND_EXIT, str(commits), URL], check=False)
        assert killed.returncode == 9
        assert json.loads(verb("finals", "budget-8000", "--format", "json")) == before[0]
    store = Store.open(URL, write=True)

    assert not store.has_table(old_finals)
    assert results(verb) == before
    numbers = {name: len(FinalsStudy.open(store, f"{name}.finals").record().trials) for name in FINALS}
    assert numbers == FINALS


@pytest.mark.usefixtures("small_store")
def test_a_store_without_the_table_of_finals_is_converted_and_deleted_from(verb):
    with sqlite3.connect("mnist-search.db") as database:
        database.execute(f"DROP TABLE {old_finals.name}")
    number = len(json.loads(verb("trials", "budget-1500", "--format", "json")))

    assert verb("delete", "budget-1500", "--yes") == f"deleted budget-1500 ({number} trials)\n"

    columns = {column["name"] for column in sa.inspect(Store.open(URL).engine).get_columns(leases.name)}
    assert columns == set(leases.columns.keys())


@pytest.mark.usefixtures("small_store")
@pytest.mark.parametrize("process", [{"pid": os.getpid()}, {"host": "elsewhere"}])
def test_conversion_waits_for_final_trials_of_version_0_1(process):
    store = Store.open(URL)
    row = {"trial_id": -1, "owner": "o", "host": platform.node(), "pid": 2**30, "process_started": 1.0}
    columns = [column for column in leases.columns if column.name in {*row, "beat"}]
    insert = sa.insert(sa.table(leases.name, *(sa.column(c.name) for c in columns)))
    with store.engine.begin() as connection:
        connection.execute(insert.values(**(row | process), beat=store.now()))

    with pytest.raises(TryAgain, match=r"a process of version 0\.1 trains finals"):
        Store.open(URL, write=True)
    with store.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {leases.name} SET host = '{platform.node()}', pid = {2**30}")
    assert not Store.open(URL, write=True).has_table(old_finals)


@pytest.mark.usefixtures("large_store")
def test_an_older_champion_is_exported_unchanged_after_the_conversion(verb, tmp_path):
    def export():
        verb("export", "budget-8000", "--to", "safetensors")
        card = json.loads((tmp_path / "budget-8000.json").read_text())
        card.pop("sha256")  # the order of safetensors' metadata differs between processes
        return card, load_file(tmp_path / "budget-8000.safetensors")

    card, tensors = export()
    Store.open(URL, write=True).close()
    card_after, tensors_after = export()

    assert card_after == card
    assert tensors_after.keys() == tensors.keys()
    assert all((tensors_after[name] == tensors[name]).all() for name in tensors)
