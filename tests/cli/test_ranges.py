"""Ranges of params on the command line: --param, --space, space --toml."""

from __future__ import annotations

import json

import pytest
from soundness import open_study

from mnist_search.cli.app import run_cli
from mnist_search.report.result import run_command
from mnist_search.search.study import SearchStudy
from mnist_search.search.warm_start import known_templates

TINY = ["--epochs", "1", "--train-images", "1000", "--val-images", "100", "--jobs", "1", "--no-mlflow"]
FIXED = {
    "width_1": 4, "width_2": 4, "width_3": 4, "transition_width": 4, "pool_1": 1, "pool_2": 0, "padding": "same",
    "head": "gap", "dropout": 0, "dropout_per": "element", "optimizer": "sgd", "sgd_lr": 0.1, "weight_decay": 1e-4,
    "schedule": "one_cycle", "batch_size": 64, "label_smoothing": 0, "depth": 3,
}  # fmt: skip
"""A space of 2 x 11 configurations: with and without transition, augmentation from 0 to 1 in steps of 0.1."""


def params(ranges):
    return [word for name, value in ranges.items() for word in ("--param", f"{name}={value}")]


@pytest.fixture
def cli(capsys, monkeypatch):
    """Run a verb in this process: exit code, stdout, stderr."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        capsys.readouterr()
        code = run_cli([str(a) for a in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def test_space_as_toml_is_read_again(cli, tmp_path):
    code, whole, _ = cli("space", "--budget", "8000", "--toml")
    assert (code, '\noptimizer = ["sgd", "adamw"]\n' in whole) == (0, True)
    (tmp_path / "space.toml").write_text(
        whole.replace('["sgd", "adamw"]', '"adamw"').replace("[0.0, 0.1]", "0.02")
    )

    code, out, _ = cli(
        "space", "--budget", "8000", "--space", "space.toml", "--param", "head=gap", "-f", "json"
    )

    document = json.loads(out)
    assert code == 0
    assert document["params"]["optimizer"] == "adamw"
    assert document["params"]["dropout"] == "0.02"
    assert document["params"]["head"] == "gap"
    assert document["params"]["padding"] == "same, valid"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--param", "luck=1"], 2, "the space has no param 'luck'; it has depth, width_1"),
        (["--param", "width_1=99"], 2, "width_1 takes 4 to 30, not 99"),
        (["--param", "optimizer"], 2, "a range is NAME=VALUE"),
        (["--space", "none.toml"], 66, "no file none.toml"),
        (["--space", "broken.toml"], 2, "not a TOML document"),
        (["--depth", "3:7", "--param", "depth=4"], 2, "depth takes one range"),
        (params(dict.fromkeys(("width_1", "width_2", "width_3"), 30)), 2, "no network of this space has"),
    ],
)
def test_impossible_range_is_refused_with_one_line(cli, tmp_path, arguments, code, message):
    (tmp_path / "broken.toml").write_text("optimizer = sgd")
    before = sorted(tmp_path.iterdir())

    result, out, err = cli("run", "--budget", "8000", *arguments)

    assert (result, out, len(err.splitlines())) == (code, "", 1)
    assert message in err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(("options", "number"), [([], "50"), (["--trials", "23"], "23")])
def test_space_with_fewer_configurations_than_trials_is_refused(cli, tmp_path, options, number):
    code, _, err = cli("run", "--budget", "8000", *params(FIXED), *options)

    assert (code, len(err.splitlines())) == (2, 1)
    assert (
        f"the search space has 22 configurations of at most 8,000 parameters, fewer than --trials {number}"
        in err
    )
    assert list(tmp_path.iterdir()) == []


def test_every_configuration_of_a_small_space_is_proposed_once(store):
    from experiments import StudyConfig

    config = StudyConfig.for_budget(8000, params=FIXED, fill=False)
    study = SearchStudy.open_or_create(store, "s", config, 22)

    claims = [study.claim() for _ in range(22)]

    assert len({config.space.decode(claim.trial.params) for claim in claims}) == 22
    assert study.claim() is None


def test_templates_are_fitted_to_the_ranges():
    from experiments import StudyConfig

    config = StudyConfig.for_budget(8000, params={"optimizer": "adamw", "depth": (3, 4), "width_1": 8})

    fitted = known_templates(config)

    assert {(p["optimizer"], p["adamw_lr"], p["width_1"]) for p in fitted} == {("adamw", 0.01, 8)}
    assert max(p["depth"] for p in fitted) <= 4
    assert len({config.space.decode(p) for p in fitted}) == len(fitted)
    assert all(config.parameter_budget.fits(p) for p in fitted)


@pytest.mark.slow
def test_search_of_a_part_of_the_space_continues_under_its_ranges(command, mnist_dir, tmp_path):
    ranges = params({"optimizer": "adamw", "dropout": "0:0.05", "depth": "3:4"})
    arguments = ["run", "--budget", "1500", *TINY, "--data-dir", mnist_dir]

    first = command(*arguments, "--trials", "1", *ranges)
    again = command(*arguments, "--trials", "2")
    other = command(*arguments, "--trials", "2", "--param", "optimizer=sgd")

    assert (first.code, again.code, other.code) == (0, 0, 65), first.err + again.err
    assert "templates are fitted to the ranges of dropout, optimizer" in first.err
    assert (
        "(dropout is 0 to 0.05 in steps of 0.01, not unrestricted; optimizer is adamw, not sgd)" in other.err
    )
    record = open_study(tmp_path).record()
    assert {trial.params["optimizer"] for trial in record.trials} == {"adamw"}
    assert "--depth 3:4" in run_command(record, has_templates=True)
    assert "--param dropout=0.0:0.05 --param optimizer=adamw" in run_command(record, has_templates=True)


def test_parent_run_has_the_ranges_as_params():
    from experiments import StudyConfig
    from mnist_search.tracking.setup import study_params

    config = StudyConfig.for_budget(8000, params={"optimizer": "sgd", "dropout": (0, 0.05)})

    logged = study_params(config)

    assert {name: value for name, value in logged.items() if "." in name} == {
        "range.optimizer": "sgd", "range.dropout": "0.0:0.05",
    }  # fmt: skip
