"""Verbs that follow and tidy up studies: tables, trials, status --watch, space, explain, delete, completion."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
import threading

import pytest
import sqlalchemy as sa
from finished import finish_final, finish_finals
from optuna.trial import TrialState
from tracked_trials import epoch_metrics, final_task, start, train

from mnist_search.cli.app import run_cli
from mnist_search.cli.table import Column, fitting_columns
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store
from mnist_search.storage.finals import BASELINE_FINALS, FinalsStudy
from mnist_search.storage.tables import leases

STATES = ["COMPLETE", "PRUNED", "FAIL", "COMPLETE", "RUNNING", "WAITING"]


@pytest.fixture
def cli(capsys, monkeypatch):
    """Run a verb in this process, its output 80 columns wide: exit code, stdout, stderr."""

    def call(*arguments, columns="80"):
        monkeypatch.setenv("COLUMNS", columns)
        code = run_cli([str(a) for a in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture
def study(tmp_path, study_config, capsys):
    """A study with trials of every state, whose running trial has one of two epochs."""
    store = Store.open_or_create(f"sqlite:///{tmp_path}/mnist-search.db")
    study = SearchStudy.open_or_create(store, "budget-1500", study_config, 6)
    train(study, accuracy=0.91)
    train(study, "PRUNED", reason="percentile pruner after epoch 10")
    train(study, "FAIL", reason="error: ValueError: a long text that says what has gone wrong in the trial")
    train(study, accuracy=0.93)
    start(study, epochs=1)
    study.queue.release(study.claim())
    capsys.readouterr()
    return study


def finish_running(study):
    """Finish the trials that are not finished."""
    study.queue.finish(study.claim(), TrialState.FAIL)
    study.study.tell(4, 0.95)


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.usefixtures("study")
@pytest.mark.parametrize("columns", ["60", "80", "120"])
@pytest.mark.parametrize(
    "arguments", [["trials", "budget-1500"], ["studies"], ["compare"], ["explain", "budget-1500", "0"]]
)
def test_tables_fit_the_width_of_the_terminal(cli, arguments, columns):
    _, out, _ = cli(*arguments, columns=columns)

    table = [line for line in out.splitlines() if "─" in line or "  " in line.strip()]
    assert max(map(len, table)) <= int(columns)


@pytest.mark.usefixtures("study")
def test_narrow_table_has_whole_states_and_says_what_it_lacks(cli):
    _, out, err = cli("trials", "budget-1500")
    _, wide, nothing = cli("trials", "budget-1500", columns="200")

    assert [line.split()[1] for line in out.splitlines() if line.strip()[:1].isdigit()] == STATES
    assert "not shown for lack of space: architecture; see --format csv" in err
    assert "percentile pruner after" in out
    assert "architecture" in wide
    assert nothing == ""


def test_empty_columns_are_left_out_first():
    name = Column("name", ["a" * 30], is_text=True)
    empty = Column("reason", ["-"], is_text=False)
    last = Column("seconds", ["12.3"], is_text=False)

    assert fitting_columns([name, empty, last], 80) == [name, empty, last]
    assert fitting_columns([name, empty, last], 35) == [name, last]
    assert fitting_columns([name, empty, last, empty], 38) == [name, last]
    assert fitting_columns([name, empty, last], 5) == [name]


@pytest.mark.usefixtures("study")
@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        ([], ["0", "1", "2", "3", "4", "5"]),
        (["--top", "2"], ["3", "0"]),
        (["--top", "1", "--sort", "number"], ["0"]),
        (["--sort", "val_accuracy", "--state", "complete"], ["3", "0"]),
        (["--sort", "epochs", "--top", "2"], ["5", "4"]),
        (["--sort", "state"], ["0", "3", "2", "1", "4", "5"]),
        (["--state", "RUNNING"], ["4"]),
    ],
)
def test_trials_are_sorted_and_selected(cli, arguments, numbers):
    code, out, _ = cli("trials", "budget-1500", "--format", "csv", *arguments)

    assert code == 0
    assert [row["number"] for row in rows(out)] == numbers


@pytest.mark.usefixtures("study")
def test_unknown_column_or_state_is_a_usage_error_that_lists_the_choices(cli):
    for arguments, choice in ((["--sort", "luck"], "val_accuracy"), (["--state", "dead"], "pruned")):
        code, _, err = cli("trials", "budget-1500", *arguments)
        assert code == 2
        assert choice in err


@pytest.mark.usefixtures("study")
def test_running_trial_is_shown_with_its_epochs_and_its_curve(cli):
    status = json.loads(cli("status", "-f", "json")[1])
    trial = next(row for row in rows(cli("trials", "budget-1500", "-f", "csv")[1]) if row["number"] == "4")
    explained = json.loads(cli("explain", "budget-1500", 4, "-f", "json")[1])

    assert status["running"] == 1
    assert (trial["state"], trial["epochs"], trial["val_accuracy"]) == ("RUNNING", "1", "0.5")
    assert [epoch["epoch"] for epoch in explained["curve"]] == [1]
    assert explained["state"] == "RUNNING"


def test_watch_ends_with_the_study_and_prints_its_status(cli, study):
    finish_running(study)

    code, out, _ = cli("status", "budget-1500", "--watch")

    assert code == 0
    assert "6 of 6 trials done" in out
    assert re.search(r"^trials done +6$", out, re.MULTILINE)


def test_watch_goes_on_to_unfinished_finals(cli, study):
    finish_running(study)
    finals = finish_finals(study._store, study.record(), [0.98], top=2, seeds=1)
    claim = finals.queue.claim()
    claim.trial.set_user_attr("device", "cpu")
    finals.queue.report(claim, epoch_metrics(1))
    end = threading.Timer(1.0, finals.queue.finish, (claim, TrialState.COMPLETE, [0.97, 0.1]))
    end.start()

    code, out, _ = cli("status", "budget-1500", "--watch")

    end.join()
    assert code == 0
    assert "budget-1500.finals: 1 of 2 trials done, 1 running" in out
    assert "budget-1500.finals: 2 of 2 trials done, 0 running" in out
    assert re.search(
        r"^finals +2 of 2 trials done; champion trial \d: 98.00 % of the test set$", out, re.MULTILINE
    )


def test_status_names_the_best_trial_and_the_interrupted_ones_in_words(cli, study):
    _, out, _ = cli("status", "budget-1500")
    best = study.record().best

    line = next(line for line in out.splitlines() if line.startswith("best "))
    assert line.split("  ")[-1].strip().startswith(f"trial {best.number}: 9")
    assert f"with {best.num_params:,} parameters, " in line
    assert "interrupted" not in out
    assert re.search(r"^finals +-$", out, re.MULTILINE)


@pytest.mark.usefixtures("study")
def test_status_shows_the_trials_of_reproduce(cli, study):
    code, _, err = cli("status", "baselines")
    assert (code, len(err.splitlines())) == (66, 1)
    assert "run mnist-search reproduce all" in err
    finals = FinalsStudy.open_or_create(study._store, BASELINE_FINALS)
    finals.add([final_task("seed-001"), final_task("seed-001", seed=1)])
    finish_final(finals, 0.98)

    code, out, _ = cli("status", "baselines", "--format", "json")

    assert code == 0
    expected = {
        "finals": "baselines",
        "n_trials": 2,
        "trials_done": 1,
        "failed": 0,
        "running": 0,
        "waiting": 1,
    }
    assert json.loads(out) == expected


def test_status_tells_a_running_trial_from_an_interrupted_one(cli, study):
    _, out, _ = cli("status", "budget-1500", "--format", "json")
    assert (json.loads(out)["running"], json.loads(out)["interrupted"]) == (1, 0)

    with study._store.engine.begin() as connection:
        connection.execute(sa.update(leases).values(process_started=1.0))  # its process has ended

    _, out, _ = cli("status", "budget-1500", "--format", "json")
    assert (json.loads(out)["running"], json.loads(out)["interrupted"]) == (0, 1)


def test_trials_and_best_show_the_latest_study_and_every_param(cli, study):
    _, out, _ = cli("trials", "--format", "json")
    _, named, _ = cli("trials", "budget-1500", "--format", "json")
    _, best, _ = cli("best", "--format", "json")

    assert out == named
    assert json.loads(out)[3]["params"] == study.study.trials[3].params
    assert (json.loads(best)["study"], json.loads(best)["number"]) == ("budget-1500", 3)


@pytest.mark.usefixtures("study")
def test_explain_has_a_legend_of_the_network(cli):
    _, out, _ = cli("explain", "budget-1500", "3")

    assert "linear layer with N outputs)" in " ".join(out.split())


def test_quiet_prints_the_result_only(cli, study):
    finish_running(study)

    loud = cli("resume", "budget-1500", "--no-mlflow")
    quiet = cli("resume", "budget-1500", "--no-mlflow", "--quiet")

    assert "add trials with" in loud[2]
    assert quiet == (0, loud[1], "")


@pytest.mark.usefixtures("study")
def test_watch_takes_no_format(cli):
    code, _, err = cli("status", "--watch", "-f", "json")

    assert (code, len(err.splitlines())) == (2, 1)
    assert "--watch shows a table" in err


@pytest.mark.usefixtures("study")
def test_space_and_explain_use_words_instead_of_class_names(cli):
    _, space, _ = cli("space", "--budget", "8000")
    _, explained, _ = cli("explain", "budget-1500", 0)

    assert "width_1           4 to 30" in space
    assert "sgd_lr            0.01 to 0.4 on a log scale" in space
    assert "dropout           0 to 0.1 in steps of 0.01" in space
    assert "transition        true, false" in space
    assert "Distribution" not in space + json.dumps(json.loads(cli("space", "-b", "8000", "-f", "json")[1]))
    assert "3x3 convolution" in explained
    assert "Conv(" not in explained
    assert "SGD(" not in explained
    assert "Adam(" not in explained


@pytest.mark.parametrize(
    ("verb", "choices"),
    [
        (
            "run",
            [
                "<tpe | random | gp | mutation>",
                "percentile",
                "hyperband",
                "<auto | cpu | mps | cuda>",
                "<auto | live | plain | none>",
            ],
        ),
        ("resume", ["<auto | live | plain | none>", "--finish-running"]),
        ("finalize", ["<auto | live | plain | none>", "--finish-running"]),
        ("reproduce", ["<auto | live | plain | none>"]),
        ("trials", ["<complete | pruned | fail | running | waiting>", "val_accuracy"]),
    ],
)
def test_help_lists_choices(cli, verb, choices):
    _, out, _ = cli(verb, "--help", columns="300")

    assert [choice for choice in choices if choice not in out] == []


def complete(tmp_path, words, check=""):
    """What bash completes after some words."""
    program = (
        f"import sys; from mnist_search.cli.app import run_cli\n"
        f"try:\n    run_cli([])\n"
        f"finally:\n    {check or 'pass'}"
    )
    environment = {"_MNIST_SEARCH_COMPLETE": "complete_bash", "COMP_WORDS": words}
    environment["COMP_CWORD"] = str(len(words.split(" ")) - 1)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.split()


HEAVY = "sys.exit(f'imported {x}') if (x := {'torch', 'mlflow', 'optuna'} & set(sys.modules)) else None"


@pytest.mark.usefixtures("study")
@pytest.mark.parametrize(
    ("words", "completions"),
    [
        ("mnist-search status ", ["budget-1500"]),
        ("mnist-search delete bud", ["budget-1500"]),
        ("mnist-search explain x", []),
        ("mnist-search trials --storage sqlite:///none.db ", []),
        ("mnist-search enqueue budget-1500 --from ", ["budget-1500"]),
        ("mnist-search run --sampler ", ["tpe", "random", "gp", "mutation"]),
        ("mnist-search run --pruner m", ["median"]),
        ("mnist-search trials s --state p", ["pruned"]),
    ],
)
def test_names_are_completed_without_heavy_imports(tmp_path, words, completions):
    assert complete(tmp_path, words, HEAVY) == completions


def test_baselines_are_completed(tmp_path):
    assert "seed-001" in complete(tmp_path, "mnist-search enqueue s --baseline seed")
    assert {"seed-001", "all"} < set(complete(tmp_path, "mnist-search reproduce "))


def test_completion_of_a_damaged_store_prints_nothing(tmp_path):
    (tmp_path / "mnist-search.db").write_text("shopping list")

    assert complete(tmp_path, "mnist-search status ") == []


def test_study_is_deleted_after_a_question(cli, study, monkeypatch):
    finish_running(study)
    before = cli("studies", "-f", "csv")[1]
    answers = {}
    for answer in ("", "n\n", "y\n"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))  # what the user types
        answers[answer] = cli("delete", "budget-1500")
        answers[answer] += (cli("studies", "-f", "csv")[1] == before,)

    assert [(code, unchanged) for code, _, _, unchanged in answers.values()] == [
        (2, True), (1, True), (0, False),
    ]  # fmt: skip
    assert "delete budget-1500 (6 trials); runs and models stay in MLflow?" in answers["n\n"][2]
    assert "pass --yes" in answers[""][2]
    assert answers["y\n"][1].strip() == "deleted budget-1500 (6 trials)"


def test_study_in_training_is_not_deleted(cli, study):
    code, out, err = cli("delete", "budget-1500", "--yes")

    assert (code, out) == (75, "")
    assert "a worker trains trial 4 of budget-1500; stop its command" in err
    assert len(study.record().trials) == 6


@pytest.mark.usefixtures("study")
def test_deletion_leaves_mlflow_unless_it_is_asked_for(cli, study, tmp_path):
    finish_running(study)

    code, out, _ = cli("delete", "budget-1500", "--yes", "--mlflow")

    assert code == 0
    assert out.splitlines() == [
        "deleted 0 runs, 0 models and 0 registered versions from MLflow; mlflow gc removes the runs' files",
        "deleted budget-1500 (6 trials)",
    ]
    assert not (tmp_path / "mlflow.db").exists()


def test_unavailable_mlflow_leaves_the_study(cli, study):
    finish_running(study)

    code, out, err = cli("delete", "budget-1500", "--yes", "--mlflow", "--tracking-uri", "http://127.0.0.1:1")

    assert (code, out, len(err.splitlines())) == (69, "", 1)
    assert "nothing was deleted from the store: MLflow is unavailable" in err
    assert len(study.record().trials) == 6


def test_done_study_says_what_it_found_and_what_follows(cli, study, mnist_dir):
    finish_running(study)
    best = study.record().best

    code, out, err = cli("run", "--budget", "1500", "--no-mlflow", "--data-dir", mnist_dir, columns="200")

    network = study.config.space.architecture(best.params)
    *_, first, legend, accuracy, parameters = out.splitlines()
    assert code == 0
    assert first == f"best network    {network} of trial {best.number}"
    assert "N 3x3 convolution to N channels" in legend or "Nv 3x3 convolution to N channels" in legend
    assert accuracy == "accuracy        93.00 % of 500 validation images"
    assert parameters == f"parameters      {best.num_params:,} of at most 1,500"
    assert "nothing is left to train" in err
    assert "the study is complete; add trials with: mnist-search resume budget-1500 --trials +10" in err
    for verb in ("finalize", "report", "export"):
        assert f"mnist-search {verb} budget-1500" in err


def test_following_commands_name_another_store(cli, study, tmp_path):
    finish_running(study)
    (tmp_path / "mnist-search.db").rename(tmp_path / "my store.db")

    _, _, err = cli("resume", "budget-1500", "--no-mlflow", "--storage", "sqlite:///my store.db")

    assert "mnist-search export budget-1500 --storage 'sqlite:///my store.db'" in err
