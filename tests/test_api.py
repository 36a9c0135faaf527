"""The Python API: what ``import mnist_search`` loads, a study as frames, models, samplers, refusals."""

from __future__ import annotations

import doctest
import pickle
import subprocess
import sys
import threading
from functools import partial

import pytest
import torch
from finished import complete_trial
from optuna.samplers import RandomSampler, TPESampler
from safetensors.torch import save
from support import ROOT

import mnist_search
from mnist_search import StudyConfig, api, load_model, open_study, run_study
from mnist_search.errors import MnistSearchError, NotFound, StudyConflict, UsageError
from mnist_search.evaluation.champion_files import export_champion
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store
from mnist_search.training.model import build

SMALL = {"epochs": 1, "train_images": 1000, "val_images": 100, "pruner": "none"}

URL = "sqlite:///store.db"


@pytest.fixture
def search_study(store, study_config):
    """A study of two complete trials, of which the second is better."""
    search_study = SearchStudy.open_or_create(store, "budget-1500", study_config, 3)
    for accuracy in (0.97, 0.98):
        complete_trial(search_study, accuracy, weights=partial(initial_weights, study_config), keep=2)
    return search_study


def initial_weights(study_config, claim):
    architecture = study_config.space.decode(claim.trial.params).architecture
    return save(build(architecture, claim.trial.number).state_dict())


def python(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def test_import_of_the_package_loads_nothing_heavy():
    done = python("-X", "importtime", "-c", "import mnist_search")

    assert done.returncode == 0
    imported = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "mnist_search" in imported
    assert imported & {"torch", "optuna", "mlflow", "sqlalchemy", "pandas", "experiments"} == set()


def test_package_lists_its_public_names_and_has_no_others():
    assert dir(mnist_search) == sorted(mnist_search.__all__)
    assert {name for name in mnist_search.__all__ if getattr(mnist_search, name) is None} == set()
    with pytest.raises(AttributeError, match="has no attribute 'run'"):
        _ = mnist_search.run


USER_SCRIPT = """
import pandas as pd
from torch import nn, zeros

from mnist_search import Study, StudyConfig, load_model, open_study, run_study

config: StudyConfig = StudyConfig.for_budget(1500, epochs=1, depth=(3, 4), seed=1)
study: Study = run_study(config, n_trials=2, jobs=2, data_dir="mnist", timeout=60.0, warm_start="none")
accuracy: float | None = open_study("budget-1500").best.val_accuracy
frame: pd.DataFrame = study.curves()
model: nn.Module = load_model(study)
print(accuracy, frame, model(zeros(1, 1, 28, 28)), study.config.budget, study.trials[0].curve[0].val_loss)
"""

WRONG_SCRIPT = """
from mnist_search import StudyConfig, nothing, run_study

run_study(1500)
run_study(StudyConfig.for_budget(1500), trials=2)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_types_of_a_correct_script_pass_a_strict_check_and_mistakes_do_not(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(USER_SCRIPT)
    wrong = tmp_path / "wrong.py"
    wrong.write_text(WRONG_SCRIPT)
    options = (f"--config-file={ROOT / 'pyproject.toml'}", f"--cache-dir={tmp_path / 'cache'}")

    done = python("-m", "mypy", *options, "--strict", script, wrong)

    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    assert len(errors) == 3, done.stdout + done.stderr
    assert all("wrong.py" in line for line in errors)
    for code in ("attr-defined", "arg-type", "call-arg"):
        assert any(f"[{code}]" in line for line in errors)


@pytest.mark.timeout(600)
def test_examples_of_the_documentation_execute(mnist_dir, monkeypatch):
    monkeypatch.setenv("MNIST_SEARCH_DATA", str(mnist_dir))

    results = doctest.testmod(api, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)

    assert results.failed == 0
    assert results.attempted >= 10


@pytest.mark.timeout(600)
def test_study_runs_in_a_thread_and_logs_without_progress(mnist_dir, caplog, capfd):
    config = StudyConfig.for_budget(1500, **SMALL)
    studies = []
    caplog.set_level("INFO", logger="mnist_search")

    def search():
        options = {"jobs": 1, "data_dir": mnist_dir, "mlflow": False, "progress": False}
        studies.append(run_study(config, 1, storage=URL, study="in-a-thread", **options))

    thread = threading.Thread(target=search)
    thread.start()
    thread.join()

    assert [trial.state for study in studies for trial in study.trials] == ["COMPLETE"]
    assert "in-a-thread: 0 of 1 trials done" in caplog.text
    assert "trial 0   complete" in caplog.text
    assert capfd.readouterr().err == ""


def test_study_reads_trials_and_curves_as_they_are_stored(search_study):
    study = open_study("budget-1500", URL)

    assert [trial.number for trial in study.trials] == [0, 1]
    assert study.best.number == 1
    assert study.config == search_study.config
    assert repr(study) == "Study('budget-1500': 2 of 3 trials done, best 98.00 % with 1,000 parameters)"
    assert [record["val_accuracy"] for record in study.curve_records()] == [0.97, 0.98]
    curves = study.curves()
    assert curves[["trial", "epoch", "val_accuracy"]].to_numpy().tolist() == [[0, 1, 0.97], [1, 1, 0.98]]
    assert "learning_rate" in curves.columns
    trials = study.trials_frame()
    assert trials["val_accuracy"].tolist() == [0.97, 0.98]
    assert trials["optimizer"].tolist() == [trial.params["optimizer"] for trial in study.trials]

    complete_trial(search_study, 0.99)

    assert study.best.number == 2


def test_study_without_trials_has_empty_frames_and_no_best_trial(store, study_config):
    SearchStudy.open_or_create(store, "new", study_config, 1)
    study = open_study("new", URL)

    assert list(study.curves().columns)[:2] == ["trial", "epoch"]
    assert len(study.curves()) == len(study.trials_frame()) == 0
    with pytest.raises(NotFound, match="no complete trial"):
        _ = study.best


@pytest.mark.usefixtures("search_study")
def test_environment_names_the_store(monkeypatch):
    monkeypatch.setenv("MNIST_SEARCH_STORAGE", URL)

    assert len(open_study("budget-1500").trials) == 2


@pytest.mark.usefixtures("store")
def test_missing_store_or_study_is_not_found():
    with pytest.raises(NotFound, match="no study store"):
        open_study("budget-1500")
    with pytest.raises(NotFound, match="no study 'other'"):
        open_study("other", URL)


@pytest.mark.usefixtures("search_study")
def test_model_is_that_of_the_champion_or_of_a_trial():
    pixels = torch.rand(2, 1, 28, 28)
    study = open_study("budget-1500", URL)

    model = load_model(study)

    assert not model.training
    assert torch.equal(model(pixels), load_model("budget-1500", URL)(pixels))
    assert torch.equal(model(pixels), load_model(study, trial=1)(pixels))
    assert not torch.equal(model(pixels), load_model(study, trial=0)(pixels))


@pytest.mark.filterwarnings("ignore")  # of torch.export
@pytest.mark.usefixtures("search_study")
@pytest.mark.parametrize("suffix", ["pt2", "safetensors"])
def test_model_of_a_file_equals_that_of_its_study(tmp_path, suffix):
    pixels = torch.rand(3, 1, 28, 28)
    file, *_ = export_champion(URL, "budget-1500", None, [suffix], tmp_path, publish=False)

    model = load_model(str(file))

    assert not model.training
    assert torch.allclose(model(pixels), load_model("budget-1500", URL)(pixels), atol=1e-6)
    assert len(list(model.parameters())) > 0

    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    with pytest.raises(MnistSearchError, match="is damaged"):
        load_model(file)


def test_onnx_file_is_no_torch_module():
    with pytest.raises(UsageError, match="is not a torch module"):
        load_model(ROOT / "experiments" / "champions" / "8000" / "model.onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_trials": 0}, "n_trials takes a number above 0"),
        ({"jobs": -1}, "jobs takes a number above 0"),
        ({"timeout": 0}, "timeout takes a number above 0"),
        ({"keep_models": -1}, "keep_models takes a number from 0"),
        ({"target_accuracy": 99.5}, "target_accuracy a fraction"),
        ({"precision": "fp16"}, "precision takes auto, bf16, fp32"),
        ({"warm_start": "plans"}, "warm_start takes none, baselines, templates"),
        ({"device": "gpu"}, "--device takes auto, cpu, mps, cuda or GPUs"),
        ({"study": "a/b"}, "is not a valid study name"),
        ({"sampler": "gp"}, "sampler takes a sampler object"),
        ({"sampler": TPESampler}, "sampler takes a sampler object"),
        ({"sampler": RandomSampler(), "tracking_uri": "sqlite:///s.db", "storage": "sqlite:///s.db"}, "two"),
    ],
)
def test_wrong_argument_is_refused_before_a_store_exists(tmp_path, arguments, message):
    with pytest.raises(MnistSearchError, match=message):
        run_study(StudyConfig.for_budget(1500, **SMALL), **arguments)

    assert list(tmp_path.iterdir()) == []


def test_sampler_that_cannot_be_pickled_is_refused_before_a_store_exists(tmp_path):
    class Locked(RandomSampler):
        def __init__(self):
            super().__init__()
            self.lock = threading.Lock()

    with pytest.raises(UsageError, match="cannot be sent to worker processes"):
        run_study(StudyConfig.for_budget(1500, **SMALL), sampler=Locked())

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sampler", [None, RandomSampler()])
def test_study_of_one_sampler_class_refuses_another_sampler(store, sampler):
    config = StudyConfig.for_budget(1500, sampler="optuna.samplers._tpe.sampler.TPESampler", **SMALL)
    SearchStudy.open_or_create(store, "budget-1500", config, 1)

    with pytest.raises(StudyConflict, match="TPESampler"):
        run_study(config, storage=URL, sampler=sampler)


def params_of_claims(name, config, sampler, claims):
    """Params of ``claims`` trials, each claimed by a process whose number is given."""
    Store.open_or_create(URL)
    SearchStudy.open_or_create(Store.open(URL, write=True), name, config, len(claims))
    processes = {
        number: SearchStudy.open(Store.open(URL, write=True), name, sampler=pickle.loads(sampler))
        for number in claims
    }
    return [dict(processes[number].claim().trial.params) for number in claims]


def test_sampler_of_one_process_is_reproducible_and_copies_do_not_repeat_its_draws(study_config):
    sampler = pickle.dumps(RandomSampler(seed=1))

    alone = params_of_claims("alone", study_config, sampler, [0, 0])
    again = params_of_claims("again", study_config, sampler, [0, 0])
    shared = params_of_claims("shared", study_config, sampler, [0, 1])

    assert again == alone
    assert shared[0] == alone[0]
    assert shared[1] not in alone
