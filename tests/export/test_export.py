"""A network that was taken out is the one that was trained, and reads pictures."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
import torch
from optuna.trial import TrialState
from PIL import Image
from safetensors.torch import save

from experiments import BASELINES
from mnist_search.errors import DiskError, NotFound, UnusableConfiguration, UsageError
from mnist_search.evaluation.champion import champion, final_summary
from mnist_search.evaluation.finals import final_queue_for, finalists
from mnist_search.export import formats
from mnist_search.export.digit_image import load_digit_image
from mnist_search.export.model_card import markdown
from mnist_search.records import FinalResult
from mnist_search.search.study import SearchStudy
from mnist_search.training.fit import fit
from mnist_search.training.model import build
from search_space import TrainingConfig
from search_space.training_config import Adam


@pytest.fixture(scope="module")
def trained(small_split):
    """A network that has learned a little, with its weights and its logits on the validation images."""
    architecture = BASELINES["seed-003"].architecture
    network = build(architecture, 0)
    config = TrainingConfig(epochs=4, batch_size=32, optimizer=Adam(0.01))
    list(fit(network, small_split.train, None, config, seed=0))
    pixels = small_split.val.images.float() / 255
    with torch.no_grad():
        weights = {name: value.contiguous() for name, value in network.state_dict().items()}
        return architecture, save(weights), pixels.numpy(), network.eval()(pixels).numpy()


@pytest.mark.parametrize("suffix", formats.WRITERS)
def test_every_format_gives_the_same_logits_for_any_number_of_images(trained, tmp_path, suffix):
    architecture, weights, pixels, logits = trained
    path = tmp_path / f"network{suffix}"

    formats.write(path, architecture, weights)
    read = formats.read(path)

    assert np.abs(read.logits(pixels) - logits).max() < 1e-4
    assert (read.logits(pixels).argmax(1) == logits.argmax(1)).all()
    assert read.logits(pixels[:1]).shape == (1, 10)
    assert read.parameters in {None, 15_578}
    assert path.stat().st_size < 300_000
    assert list(tmp_path.iterdir()) == [path]


def test_a_pt2_file_holds_no_pickle(trained, tmp_path):
    architecture, weights, *_ = trained
    formats.write(tmp_path / "network.pt2", architecture, weights)

    with zipfile.ZipFile(tmp_path / "network.pt2") as archive:
        beginnings = {name: archive.read(name)[:2] for name in archive.namelist()}

    assert not [name for name, start in beginnings.items() if start in {b"PK", b"\x80\x02", b"\x80\x04"}]


@pytest.mark.parametrize("suffix", formats.WRITERS)
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_file_that_was_cut_short_is_refused(trained, tmp_path, suffix, share):
    architecture, weights, *_ = trained
    path = tmp_path / f"network{suffix}"
    formats.write(path, architecture, weights)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])

    with pytest.raises(UnusableConfiguration, match="damaged or no network of ours"):
        formats.read(path)


def test_what_is_no_file_or_no_format_is_refused(trained, tmp_path):
    architecture, weights, *_ = trained

    with pytest.raises(UnusableConfiguration, match="no file"):
        formats.read(tmp_path / "network.pt2")
    with pytest.raises(UnusableConfiguration, match=r"no format '\.pkl'"):
        formats.read(tmp_path / "network.pkl")
    with pytest.raises(DiskError, match="cannot write"):
        formats.write(tmp_path / "nowhere" / "network.safetensors", architecture, weights)


@pytest.fixture
def search_study(store, study_config):
    """A study of two complete trials with weights of their own, the second the better one."""
    search_study = SearchStudy.open_or_create(store, "budget-1500", study_config, 2)
    for accuracy in (0.97, 0.98):
        claim = search_study.claim()
        network = build(study_config.space.decode(claim.trial.params).architecture, claim.trial.number)
        claim.trial.set_user_attr("num_params", 1000)
        curve = [{"epoch": 1, "val_accuracy": accuracy, "val_loss": 0.1}]
        search_study.queue.finish(
            claim, TrialState.COMPLETE, accuracy,
            attributes={"curve": curve}, safetensors=save(network.state_dict()), keep=1,
        )  # fmt: skip
    return search_study


def test_before_finals_the_champion_is_the_best_trial(search_study, store):
    found = champion(store, "budget-1500")

    assert (found.card["trial"], found.card["val_accuracy"]) == (1, 0.98)
    assert "test_accuracy" not in found.card
    assert found.weights == next(iter(search_study.queue.kept_weights().values()))
    assert "promises a little more than it keeps" in markdown("n", found.card)


def test_a_trial_whose_weights_are_gone_is_refused(search_study, store):
    with pytest.raises(NotFound, match="of trial 0 were not kept; those of 1 were"):
        champion(store, search_study.name, trial=0)
    with pytest.raises(NotFound, match="no such trial"):
        champion(store, search_study.name, trial=7)


def hold_finals(search_study, store, accuracies):
    record = search_study.record()
    tasks = finalists(record, top=2, seeds=2)
    series = final_queue_for(store, record, tasks, again=False)
    series.add(tasks)
    for accuracy in accuracies:
        claim = series.claim()
        task = claim.training.task
        series.finish(
            claim,
            FinalResult(test_accuracy=accuracy, test_loss=0.1)
            if accuracy
            else FinalResult(failure="diverged"),
            f"{task.name}, seed {task.seed}".encode() if accuracy else None,
        )


def test_the_test_set_chooses_neither_the_finalist_nor_the_seed(search_study, store):
    hold_finals(search_study, store, (0.95, 0.99, 0.98, 0.99))

    found = champion(store, search_study.name)

    assert found.weights == b"trial 1, seed 0"
    assert (found.card["test_accuracy"], found.card["n_seeds"]) == (0.95, 2)
    assert found.card["test_accuracy_mean"] == pytest.approx(0.965)
    assert "test set was opened once" in markdown("n", found.card)
    final = final_summary(store, search_study.record())
    assert (final.trial.number, final.summary.mean) == (1, pytest.approx(0.965))


def test_a_finalist_that_failed_with_every_seed_is_no_champion(search_study, store):
    hold_finals(search_study, store, (None, 0.99, None, 0.98))

    assert champion(store, search_study.name).weights == b"trial 0, seed 0"


def test_finals_that_are_not_finished_crown_nobody(search_study, store):
    hold_finals(search_study, store, (0.95, 0.99))

    assert "test_accuracy" not in champion(store, search_study.name).card


@pytest.mark.parametrize("kind", ["as it is", "inverted", "large", "in a corner", "with alpha", "jpeg"])
def test_a_picture_of_an_mnist_digit_becomes_that_digit(digits, tmp_path, kind):
    path = tmp_path / ("digit.jpg" if kind == "jpeg" else "digit.png")
    far = []
    for image in digits.images[::250, 0].numpy():
        picture = Image.fromarray(image)
        match kind:
            case "inverted" | "jpeg":
                picture = Image.fromarray(255 - image).resize((112, 112))
            case "large":
                picture = picture.resize((280, 280), Image.Resampling.BICUBIC)
            case "in a corner":
                picture = Image.new("L", (90, 70))
                picture.paste(Image.fromarray(image), (55, 2))
            case "with alpha":
                picture = Image.new("RGBA", (28, 28), "black")
                picture.putalpha(Image.fromarray(image))
        picture.save(path)
        far.append(np.abs(load_digit_image(path) - image / 255).mean())

    assert np.mean(far) < (1e-6 if kind == "as it is" else 0.04)


def test_what_is_no_picture_of_a_digit_is_refused(tmp_path):
    Image.new("L", (40, 40), 180).save(tmp_path / "blank.png")
    (tmp_path / "text.png").write_text("seven")

    for name, said in (
        ("blank.png", "nothing stands out"),
        ("text.png", "no picture that can be read"),
        ("no.png", "no picture"),
    ):
        with pytest.raises(UsageError, match=said):
            load_digit_image(tmp_path / name)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_study_s_champion_is_exported_verified_and_used(command, mnist_dir, tmp_path, digits):
    there = ("--data-dir", mnist_dir)
    quick = ("--epochs", "2", "--train-images", "4000", "--val-images", "1000", "--no-mlflow")
    assert command("run", "--budget", "1500", "--trials", "1", *quick, *there).code == 0
    Image.fromarray(digits.images[0, 0].numpy()).save(tmp_path / "digit.png")

    unjudged = command("export", "budget-1500", "--publish")
    assert (unjudged.code, unjudged.err.count("\n")) == (2, 1)
    assert "mnist-search finalize budget-1500" in unjudged.err
    assert not (tmp_path / "1500").exists()

    exported = command("export", "budget-1500", "--to", "pt2", "--to", "onnx", "--to", "safetensors")

    assert exported.code == 0, exported.err
    names = exported.out.split()
    assert [name.rpartition(".")[2] for name in names] == ["pt2", "onnx", "safetensors", "json", "md"]
    told = json.loads((tmp_path / "budget-1500.json").read_text())
    answers = set()
    for name in names[:3]:
        assert b"mnist_search/" not in (tmp_path / name).read_bytes()  # paths of this machine
        verified = command("verify", name, *there, "--format", "json")
        assert verified.code == 0, verified.err
        assert json.loads(verified.out)["val_accuracy"] == pytest.approx(told["val_accuracy"], abs=1e-3)
        (row,) = json.loads(command("predict", name, "digit.png", "--format", "json").out)
        assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-4)
        answers.add(row["digit"])
    assert len(answers) == 1
    (tmp_path / "budget-1500.json").write_text(json.dumps(told | {"val_accuracy": 0.999}))
    wrong = command("verify", "budget-1500.pt2", *there)
    assert (wrong.code, wrong.err.count("\n")) == (1, 1)
    assert "not the network that its card describes" in wrong.err
