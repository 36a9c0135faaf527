"""The command line: help, invalid input, and the verbs that show the store."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys

import pytest
from optuna.trial import TrialState
from support import digest, empty_file, mlflow_database, newer_schema, text_file

from experiments import BASELINES
from mnist_search.cli.app import app, run_cli
from mnist_search.cli.options import parse_bounds, parse_duration
from mnist_search.errors import UsageError
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store

VERBS = [command.callback.__name__ for command in app.registered_commands]


@pytest.fixture
def cli(capsys, monkeypatch):
    """Run a verb in this process: exit code, stdout, stderr."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        code = run_cli([str(a) for a in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def test_help_lists_every_verb(cli):
    code, out, _ = cli("--help")

    assert code == 0
    assert all(f" {verb} " in out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(cli, verb):
    code, out, _ = cli(verb, "--help")

    assert code == 0
    assert len(out.splitlines()) > 5


def test_help_imports_no_heavy_package():
    check = (
        "import sys\n"
        "from mnist_search.cli.app import app, run_cli\n"
        "run_cli(['run', '--help'])\n"
        "heavy = {'torch', 'mlflow', 'optuna', 'sqlalchemy', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )

    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_importing_the_packages_has_no_side_effect(tmp_path):
    check = (
        "import os, threading, logging\n"
        "before = dict(os.environ)\n"
        "import search_space, experiments, mnist_search, mnist_search.cli.app, mnist_search.execution.run_study\n"
        "import mnist_search.execution.trials, mnist_search.tracking.sync, torch\n"
        "mine = {k for k in set(os.environ) | set(before) if os.environ.get(k) != before.get(k)}\n"
        "assert not {k for k in mine if k.startswith(('MLFLOW', 'MNIST', 'DO_NOT', 'OPTUNA'))}, mine\n"
        "assert threading.active_count() == 1 and not torch.cuda.is_initialized()\n"
        "assert not os.listdir('.'), os.listdir('.')"
    )
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}

    done = subprocess.run(
        [sys.executable, "-c", check],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_help_is_printed_without_arguments(cli):
    code, out, _ = cli()

    assert code == 0
    assert "Usage: mnist-search" in out


def test_version_option_prints_the_version_of_the_package(cli):
    from importlib.metadata import version

    assert cli("--version")[:2] == (0, f"{version('mnist-search')}\n")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run"], 2, "Missing option '--budget'"),
        (["run", "--budget", "50"], 2, "the smallest has 132; raise the budget to 132 or lower width"),
        (["run", "--budget", "0"], 2, "--budget"),
        (["run", "--budget", "-5"], 2, "--budget"),
        (["run", "--budget", "many"], 2, "--budget"),
        (["run", "--budget", "10000000000000"], 2, "within 1 and 1,000,000"),
        (["run", "--budget", "8000", "--trials", "0"], 2, "--trials"),
        (["run", "--budget", "8000", "--epochs", "-1"], 2, "--epochs"),
        (["run", "--budget", "8000", "--seed", "-1"], 2, "--seed"),
        (["run", "--budget", "8000", "--sampler", "magic"], 2, "no sampler 'magic'"),
        (["run", "--budget", "8000", "--sampler", "grid"], 2, "grid cannot be used"),
        (["run", "--budget", "8000", "--pruner", "magic"], 2, "no pruner 'magic'"),
        (["run", "--budget", "8000", "--jobs", "0"], 2, "--jobs takes a number"),
        (["run", "--budget", "8000", "--jobs", "some"], 2, "--jobs takes a number"),
        (["run", "--budget", "8000", "--timeout", "soon"], 2, "--timeout takes a duration"),
        (["run", "--budget", "8000", "--trial-timeout", "0s"], 2, "--trial-timeout takes a duration above"),
        (["run", "--budget", "8000", "--target-accuracy", "99.5"], 2, "--target-accuracy"),
        (["run", "--budget", "8000", "--patience", "0"], 2, "--patience"),
        (["run", "--budget", "8000", "--depth", "deep"], 2, "--depth takes LOW:HIGH"),
        (["run", "--budget", "8000", "--depth", "7:3"], 2, "depth takes bounds"),
        (["run", "--budget", "8000", "--width", "0:9"], 2, "width takes bounds"),
        (["run", "--budget", "8000", "--train-images", "59999"], 2, "more than the 60,000 of MNIST"),
        (["run", "--budget", "8000", "--study", "../x"], 2, "not a valid study name"),
        (["run", "--budget", "8000", "--study", "x.finals"], 2, "is the name of finals"),
        (["run", "--budget", "8000", "--device", "toaster"], 2, "--device"),
        (["run", "--budget", "8000", "--device", "cuda"], 78, "no cuda device on this machine"),
        (["run", "--budget", "8000", "--data-dir", "none"], 69, "none is not a folder"),
        (["run", "--budget", "8000", "--storage", "mongodb://x"], 78, "--storage"),
        (["run", "--budget", "8000", "--storage", "shopping list"], 78, "--storage takes a database URL"),
        (["run", "--budget", "8000", "--tracking-uri", "file:./mlruns"], 78, "MLflow cannot store runs"),
        (
            ["run", "--budget", "8000", "--storage", "sqlite:///a.db", "--tracking-uri", "sqlite:///a.db"],
            78,
            "cannot share a database",
        ),
        (["resume", "none"], 66, "no study store"),
        (["resume", "none", "--trials", "a few"], 2, "--trials takes a number"),
        (["status"], 66, "no study store"),
        (["studies"], 66, "no study store"),
        (["trials", "none"], 66, "no study store"),
        (["best", "none"], 66, "no study store"),
        (["explain", "none", "1"], 66, "no study store"),
        (["compare", "none"], 66, "no study store"),
        (["space", "--budget", "50"], 2, "the smallest has 132"),
        (["data", "--data-dir", "none"], 69, "none is not a folder"),
        (["ui"], 66, "no MLflow database"),
        (["ui", "--tracking-uri", "http://127.0.0.1:1"], 2, "open http://127.0.0.1:1 in a browser"),
        (["fly"], 2, "No such command 'fly'"),
    ],
)
def test_invalid_input_exits_with_one_line_and_leaves_no_file(
    cli, tmp_path, monkeypatch, arguments, code, message
):
    if "cuda" in arguments and __import__("torch").cuda.is_available():
        pytest.skip("this machine has a GPU")
    monkeypatch.delenv("MNIST_SEARCH_DATA", raising=False)

    exit_code, out, err = cli(*arguments)

    assert exit_code == code
    assert message in err
    assert len(err.splitlines()) == 1
    assert out == ""
    assert digest(tmp_path) == {}


@pytest.mark.parametrize("verb", [["run", "--budget", "8000"], ["status"], ["resume", "s"], ["compare", "s"]])
@pytest.mark.parametrize("make", [text_file, empty_file, mlflow_database, newer_schema])
def test_foreign_store_is_rejected_and_unchanged(cli, tmp_path, mnist_dir, verb, make):
    make(tmp_path / "mnist-search.db")
    before = digest(tmp_path)

    code, _, err = cli(*verb, *(["--data-dir", mnist_dir] if verb[0] == "run" else []))

    assert code == 78
    assert len(err.splitlines()) == 1
    assert digest(tmp_path) == before


def test_foreign_mlflow_file_is_rejected_and_unchanged(cli, tmp_path, mnist_dir):
    (tmp_path / "mlflow.db").write_text("shopping list")
    before = digest(tmp_path)

    code, _, err = cli("run", "--budget", "8000", "--data-dir", mnist_dir)

    assert (code, len(err.splitlines())) == (78, 1)
    assert digest(tmp_path) == before


def test_damaged_data_stops_a_run_before_the_store_is_created(cli, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-images-idx3-ubyte").write_text("not images")

    code, _, err = cli("run", "--budget", "8000", "--data-dir", tmp_path / "data")

    assert code == 69
    assert "SHA-256 checksum is wrong" in err
    assert not list(tmp_path.glob("*.db"))


def test_unwritable_folder_is_a_disk_error(cli, tmp_path, mnist_dir):
    code, _, err = cli(
        "run", "--budget", "8000", "--data-dir", mnist_dir, "--storage", "sqlite:////proc/store.db"
    )

    assert code == 74
    assert "cannot create the study store" in err
    assert digest(tmp_path) == {}


@pytest.mark.parametrize("arguments", [("--debug", "status"), ("status", "--debug")])
def test_debug_option_shows_the_traceback_and_keeps_the_exit_code(cli, arguments):
    code, out, err = cli(*arguments)

    assert (code, out) == (66, "")
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].startswith("mnist-search: no study store")


def test_dry_run_prints_proposals_and_writes_nothing(cli, tmp_path):
    code, out, _ = cli("run", "--budget", "8000", "--dry-run")

    assert code == 0
    assert "study budget-8000: 50 trials of 15 epochs, at most 8,000 parameters" in out
    assert "nothing was written" in out
    assert digest(tmp_path) == {}
    enqueued, sampled = out.split("first sampled proposals:")
    assert "enqueued by --warm-start templates:\n   7," in enqueued
    assert len(re.findall(r"^ +[\d,]+  \d+v?-", sampled, re.MULTILINE)) == 3


def test_dry_run_proposes_what_a_run_trains(store, study_config):
    from mnist_search.search.study import first_proposals
    from mnist_search.search.warm_start import enqueue_templates, enqueued_params

    study = SearchStudy.open_or_create(store, "s", study_config, 20)
    enqueue_templates(study)
    enqueued = enqueued_params(study_config, "templates")
    expected = [study_config.space.architecture(params) for params in enqueued]

    claimed = [study.config.space.architecture(study.claim().trial.params) for _ in range(len(enqueued) + 2)]

    assert claimed == expected + first_proposals(study_config, 2, enqueued)


def test_dry_run_of_a_study_with_another_configuration_is_refused(cli, tmp_path, study_config):
    store = Store.open_or_create(f"sqlite:///{tmp_path}/mnist-search.db")
    SearchStudy.open_or_create(store, "budget-1500", study_config, 5)

    code, out, err = cli("run", "--budget", "1500", "--epochs", "7", "--dry-run")
    same, shown, _ = cli("run", "--budget", "1500", "--dry-run")

    assert (code, out, "epochs is 2, not 7" in err) == (65, "", True)
    assert same == 0
    assert "enqueued" not in shown


def test_error_that_names_a_command_names_the_given_store(cli, tmp_path):
    Store.open_or_create(f"sqlite:///{tmp_path}/other.db")

    for arguments in (["--storage", "sqlite:///other.db"], ["--storage=sqlite:///other.db"]):
        code, _, err = cli("status", "none", *arguments)
        assert code == 66
        assert err.rstrip().endswith("mnist-search studies (with --storage sqlite:///other.db)")
    assert cli("status", "--storage", "sqlite:///none.db")[2].count("--storage") == 1


def test_space_prints_sizes_and_shares(cli):
    code, out, _ = cli("space", "--budget", "8000", "--format", "json")

    document = json.loads(out)
    assert code == 0
    assert document["smallest"] <= 8000 <= document["largest"]
    assert 0 < document["near_budget_share"] < document["feasible_share"] < 1


def test_compare_shows_the_baselines_without_a_store(cli, tmp_path):
    code, out, _ = cli("compare", "--no-published", "--format", "json")

    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert {name: row["parameters"] for name, row in rows.items()} == {
        "seed-000": 8932, "seed-001": 7204, "seed-002": 25290, "seed-003": 15578, "seed-004": 11588,
    }  # fmt: skip
    assert {row["kind"] for row in rows.values()} == {"baseline"}
    assert rows["seed-000"]["reported_test_accuracy"] == 0.995
    assert digest(tmp_path) == {}


@pytest.fixture
def study_with_all_states(tmp_path, study_config):
    """A store with a study of a complete, a pruned, a failed and a waiting trial."""
    search_study = SearchStudy.open_or_create(
        Store.open_or_create(f"sqlite:///{tmp_path}/mnist-search.db"), "budget-1500", study_config, 5
    )
    curve = [
        {"epoch": e, "train_loss": 1.0, "train_accuracy": 0.5, "val_loss": 0.5, "val_accuracy": 0.9 + e / 100,
         "learning_rate": 0.1, "seconds": 1.0, "samples_per_second": 10.0, "timestamp": e}
        for e in (1, 2)
    ]  # fmt: skip
    for state, value, reason in (
        (TrialState.COMPLETE, 0.92, None),
        (TrialState.PRUNED, None, "asha pruner after epoch 2"),
        (TrialState.FAIL, None, "diverged: loss nan at step 25 of epoch 1"),
    ):
        claim = search_study.claim()
        claim.trial.set_user_attr(
            "num_params", study_config.space.architecture(claim.trial.params).num_params()
        )
        if state != TrialState.FAIL:
            claim.trial.set_user_attr("curve", curve)
        if reason:
            claim.trial.set_user_attr("reason", reason)
        search_study.queue.finish(claim, state, [value] if value else None)
    search_study.queue.release(search_study.claim())
    return search_study


@pytest.mark.usefixtures("study_with_all_states")
def test_status_prints_one_document(cli):
    code, out, _ = cli("status", "--format", "json")

    document = json.loads(out)
    assert code == 0
    assert {"study", "budget", "n_trials", "trials_done", "rejected", "best"} <= set(document)
    assert (document["study"], document["trials_done"], document["waiting"]) == ("budget-1500", 3, 1)
    assert document["best"]["number"] == 0


@pytest.mark.usefixtures("study_with_all_states")
def test_trials_print_state_score_and_reason(cli):
    _, out, _ = cli("trials", "budget-1500", "--format", "json")

    rows = json.loads(out)
    assert [row["state"] for row in rows] == ["COMPLETE", "PRUNED", "FAIL", "WAITING"]
    assert [row["epochs"] for row in rows] == [2, 2, 0, 0]
    assert rows[0]["val_accuracy"] == 0.92
    assert rows[2]["reason"].startswith("diverged")
    assert {"number", "state", "num_params", "val_accuracy", "epochs", "run_id", "reason"} <= set(rows[0])


@pytest.mark.usefixtures("study_with_all_states")
def test_csv_and_table_print_the_same_trials(cli):
    _, out, _ = cli("trials", "budget-1500", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    _, table, _ = cli("trials", "budget-1500")

    assert [row["state"] for row in rows] == ["COMPLETE", "PRUNED", "FAIL", "WAITING"]
    assert all(row["state"] in table for row in rows)
    assert "92.00 %" in table
    assert "\x1b" not in table


@pytest.mark.usefixtures("study_with_all_states")
def test_best_explain_studies_and_compare_print_the_store(cli):
    assert json.loads(cli("best", "budget-1500", "-f", "json")[1])["val_accuracy"] == 0.92
    explanation = json.loads(cli("explain", "budget-1500", "0", "-f", "json")[1])
    assert sum(layer["num_params"] for layer in explanation["layers"]) == explanation["num_params"] <= 1500
    assert len(explanation["curve"]) == 2
    assert "diverged" in cli("explain", "budget-1500", "2")[1]
    (study,) = json.loads(cli("studies", "-f", "json")[1])
    assert study["trials_done"] == 3
    rows = json.loads(cli("compare", "-f", "json")[1])
    assert {row["name"] for row in rows if row["kind"] != "published"} == {*BASELINES, "budget-1500"}
    assert all(
        0.99 <= row["reported_test_accuracy"] < 1
        for row in rows
        if row["kind"] == "published" and row["parameters"] > 600
    )
    assert sorted(row["parameters"] for row in rows) == [row["parameters"] for row in rows]
    (row,) = (row for row in rows if row["kind"] == "study")
    assert (row["val_accuracy"], row["front"], row["budget"]) == (0.92, True, 1500)


@pytest.mark.usefixtures("study_with_all_states")
def test_compare_writes_a_plot_that_loads_nothing_from_the_network(cli, tmp_path):
    code, out, _ = cli("compare", "--plot", tmp_path / "plot.html", "-f", "csv")

    assert code == 0
    assert out.startswith("name,kind,parameters")
    page = (tmp_path / "plot.html").read_text()
    assert "budget-1500" in page
    assert "plotly" in page.lower()
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=.https?:", page)

    code, out, err = cli("compare", "--plot", tmp_path / "nowhere" / "plot.html")

    assert (code, out) == (74, "")
    assert "name another file with --plot" in err


@pytest.mark.usefixtures("study_with_all_states")
def test_unknown_study_or_trial_is_not_found(cli):
    for arguments in (["status", "x"], ["trials", "x"], ["best", "x"], ["explain", "budget-1500", "99"]):
        code, _, err = cli(*arguments)
        assert (code, len(err.splitlines())) == (66, 1)


def test_other_study_config_is_a_conflict(cli, study_with_all_states, mnist_dir, tmp_path):
    before = digest(tmp_path)

    code, _, err = cli("run", "--budget", "1500", "--epochs", "15", "--data-dir", mnist_dir)

    assert code == 65
    assert "epochs is 2, not 15" in err
    assert "mnist-search resume budget-1500" in err
    assert digest(tmp_path) == before
    assert len(study_with_all_states.record().trials) == 4


def test_durations_and_bounds_are_parsed():
    assert [parse_duration(text, "-") for text in ("90", "30m", "1h30m", "1.5h", "2d", None)] == [
        90, 1800, 5400, 5400, 172_800, None,
    ]  # fmt: skip
    assert parse_bounds("4:30", "-") == (4, 30)
    for invalid in ("", "m", "3x", "-5s", "1h x"):
        with pytest.raises(UsageError):
            parse_duration(invalid, "-")


def test_storage_option_overrides_the_environment(cli, monkeypatch):
    monkeypatch.setenv("OPTUNA_STORAGE", "sqlite:///optuna.db")
    assert "optuna.db" in cli("status")[2]
    monkeypatch.setenv("MNIST_SEARCH_STORAGE", "sqlite:///mnist.db")
    assert "mnist.db" in cli("status")[2]
    assert "flag.db" in cli("status", "--storage", "sqlite:///flag.db")[2]
