"""Exported files equal the trained network; champions, cards and image preprocessing."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import zipfile
from functools import partial

import numpy as np
import pytest
import torch
from finished import complete_trial, finish_finals
from PIL import Image
from safetensors.torch import save

from experiments import BASELINES
from mnist_search.errors import DiskError, MnistSearchError, NotFound, UnusableConfiguration, UsageError
from mnist_search.evaluation.champion import champion, final_evaluation
from mnist_search.evaluation.champion_files import export_champion
from mnist_search.export.digit_image import load_digit_image
from mnist_search.export.formats import FORMATS, export_model, read_model
from mnist_search.export.inference import verify_file
from mnist_search.export.model_card import markdown
from mnist_search.search.study import SearchStudy
from mnist_search.training.fit import fit
from mnist_search.training.model import build, count
from search_space import TrainingConfig
from search_space.training_config import Adam


@pytest.fixture(scope="module")
def trained(small_split):
    """An architecture, its weights after four epochs, validation pixels and the logits for them."""
    architecture = BASELINES["seed-003"].architecture
    network = build(architecture, 0)
    config = TrainingConfig(epochs=4, batch_size=32, optimizer=Adam(0.01))
    list(fit(network, small_split.train, None, config, seed=0))
    pixels = small_split.val.images.float() / 255
    with torch.no_grad():
        weights = {name: value.contiguous() for name, value in network.state_dict().items()}
        return architecture, save(weights), pixels, network.eval()(pixels)


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_returns_the_same_logits_for_any_batch_size(trained, tmp_path, suffix):
    architecture, weights, pixels, logits = trained
    path = tmp_path / f"network{suffix}"

    export_model(path, architecture, weights)
    network = read_model(path)

    with torch.no_grad():
        assert (network(pixels) - logits).abs().max() < 1e-4
        assert (network(pixels).argmax(1) == logits.argmax(1)).all()
        assert network(pixels[:1]).shape == (1, 10)
    assert suffix == ".onnx" or count(network) == 15_578
    assert path.stat().st_size < 300_000
    assert list(tmp_path.iterdir()) == [path]


def test_pt2_file_contains_no_pickle(trained, tmp_path):
    architecture, weights, *_ = trained
    export_model(tmp_path / "network.pt2", architecture, weights)

    with zipfile.ZipFile(tmp_path / "network.pt2") as archive:
        headers = {name: archive.read(name)[:2] for name in archive.namelist()}

    assert not [name for name, header in headers.items() if header in {b"PK", b"\x80\x02", b"\x80\x04"}]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_truncated_file_is_rejected(trained, tmp_path, suffix, share):
    architecture, weights, *_ = trained
    path = tmp_path / f"network{suffix}"
    export_model(path, architecture, weights)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])

    with pytest.raises(UnusableConfiguration, match="damaged or was not written by mnist-search"):
        read_model(path)


def test_missing_file_and_unknown_format_are_rejected(trained, tmp_path):
    architecture, weights, *_ = trained

    with pytest.raises(NotFound, match="no file"):
        read_model(tmp_path / "network.pt2")
    with pytest.raises(UnusableConfiguration, match=r"unknown model format '\.pkl'"):
        read_model(tmp_path / "network.pkl")
    with pytest.raises(DiskError, match="cannot write"):
        export_model(tmp_path / "nowhere" / "network.safetensors", architecture, weights)


@pytest.fixture
def search_study(store, study_config):
    """A study of two complete trials with different weights; the second is better."""
    search_study = SearchStudy.open_or_create(store, "budget-1500", study_config, 2)
    for accuracy in (0.97, 0.98):
        complete_trial(search_study, accuracy, weights=partial(initial_weights, study_config), keep=1)
    return search_study


def initial_weights(study_config, claim):
    architecture = study_config.space.decode(claim.trial.params).architecture
    return save(build(architecture, claim.trial.number).state_dict())


def test_champion_is_the_best_trial_before_finals(search_study, store):
    best = champion(store, "budget-1500")

    assert (best.card["trial"], best.card["val_accuracy"]) == (1, 0.98)
    assert "test_accuracy" not in best.card
    assert best.weights == next(iter(search_study.queue.kept_weights().values()))
    assert "expect slightly less on new data" in markdown("n", best.card)


def test_champion_is_rejected_when_its_weights_were_not_kept(search_study, store):
    with pytest.raises(NotFound, match="of trial 0 were not kept; those of 1 were"):
        champion(store, search_study.name, trial=0)
    with pytest.raises(NotFound, match="has no trial 7"):
        champion(store, search_study.name, trial=7)


def finish_two_finalists(search_study, store, accuracies):
    def weights(task):
        return f"{task.name}, seed {task.seed}".encode()

    finish_finals(store, search_study.record(), accuracies, top=2, seeds=2, weights=weights)


def test_champion_is_selected_without_the_test_set(search_study, store):
    finish_two_finalists(search_study, store, (0.95, 0.99, 0.98, 0.99))

    best = champion(store, search_study.name)

    assert best.weights == b"trial 1, seed 0"
    assert (best.card["test_accuracy"], best.card["n_seeds"]) == (0.95, 2)
    assert best.card["test_accuracy_mean"] == pytest.approx(0.965)
    assert "evaluated on the test set after its last epoch" in markdown("n", best.card)
    final = final_evaluation(store, search_study.record())
    assert (final.trial.number, final.statistics.test_accuracy_mean) == (1, pytest.approx(0.965))


def test_champion_is_the_next_finalist_when_the_first_failed_with_every_seed(search_study, store):
    finish_two_finalists(search_study, store, (None, 0.99, None, 0.98))

    assert champion(store, search_study.name).weights == b"trial 0, seed 0"


def test_champion_is_the_best_trial_when_finals_are_unfinished(search_study, store):
    finish_two_finalists(search_study, store, (0.95, 0.99))

    assert "test_accuracy" not in champion(store, search_study.name).card


def damage_weights(folder, trial_id):
    """Flip one byte of the kept weights of a trial."""
    with sqlite3.connect(folder / "store.db") as database:
        query = "SELECT safetensors FROM mnist_search_weights WHERE trial_id = ?"
        (content,) = database.execute(query, (trial_id,)).fetchone()
        update = "UPDATE mnist_search_weights SET safetensors = ? WHERE trial_id = ?"
        database.execute(update, (flipped(content, len(content) // 2), trial_id))


def flipped(content, position):
    """The content with every bit of one byte inverted."""
    return content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]


@pytest.fixture
def damaged_study(store, study_config, tmp_path):
    """Two trials with kept weights, those of the worse one damaged."""
    search_study = SearchStudy.open_or_create(store, "budget-1500", study_config, 2)
    for accuracy in (0.97, 0.98):
        complete_trial(search_study, accuracy, weights=partial(initial_weights, study_config), keep=2)
    damage_weights(tmp_path, search_study.record().trials[0].trial_id)
    return search_study


@pytest.mark.usefixtures("damaged_study")
@pytest.mark.parametrize(
    "arguments",
    [
        ("export", "budget-1500", "--to", "safetensors"),
        ("report", "budget-1500", "--no-mlflow"),
        pytest.param(("run", "--budget", "1500", "--trials", "2", "--device", "cpu"), marks=pytest.mark.slow),
    ],
    ids=lambda arguments: arguments[0],
)
def test_damaged_weights_of_another_trial_are_one_warning(command, store, mnist_dir, arguments):
    done = command(*arguments, "--storage", store.url, MNIST_SEARCH_DATA=str(mnist_dir))

    assert done.code == 0, done.err
    (warning,) = [line for line in done.err.splitlines() if "weights of trial 0" in line]
    assert "damaged" in warning


@pytest.mark.usefixtures("damaged_study")
def test_damaged_weights_are_not_exported(command, store):
    done = command("export", "budget-1500", "--trial", "0", "--storage", store.url)

    assert done.code in {66, 78}
    assert "trial 0" in done.err


@pytest.mark.usefixtures("search_study")
@pytest.mark.parametrize("suffix", ["safetensors", "pt2"])
def test_flipped_byte_of_a_model_file_is_refused(store, tmp_path, mnist_dir, suffix):
    path = tmp_path / f"budget-1500.{suffix}"
    list(export_champion(store.url, "budget-1500", None, [suffix], tmp_path, publish=False))
    content = path.read_bytes()
    verify_file(path, mnist_dir)

    for position in np.linspace(0, len(content) - 1, 8, dtype=int).tolist():
        path.write_bytes(flipped(content, position))
        with pytest.raises(MnistSearchError, match="is damaged: its card has another SHA-256") as refused:
            verify_file(path, mnist_dir)
        assert refused.value.exit_code == 1


@pytest.mark.usefixtures("search_study")
def test_card_keeps_the_digests_of_an_earlier_export(store, tmp_path):
    for suffix in ("safetensors", "pt2"):
        list(export_champion(store.url, "budget-1500", None, [suffix], tmp_path, publish=False))

    card = json.loads((tmp_path / "budget-1500.json").read_text())
    assert card["sha256"] == {
        suffix: hashlib.sha256((tmp_path / f"budget-1500.{suffix}").read_bytes()).hexdigest()
        for suffix in ("safetensors", "pt2")
    }


@pytest.mark.usefixtures("search_study")
def test_file_of_an_older_card_without_digests_is_verified(store, tmp_path, mnist_dir):
    list(export_champion(store.url, "budget-1500", None, ["safetensors"], tmp_path, publish=False))
    card = json.loads((tmp_path / "budget-1500.json").read_text())
    del card["sha256"]
    (tmp_path / "budget-1500.json").write_text(json.dumps(card))

    document, _ = verify_file(tmp_path / "budget-1500.safetensors", mnist_dir)

    assert document["parameters"] == card["parameters"]


@pytest.mark.parametrize("kind", ["as it is", "inverted", "large", "in a corner", "with alpha", "jpeg"])
def test_image_file_of_an_mnist_digit_becomes_that_digit(digits, tmp_path, kind):
    path = tmp_path / ("digit.jpg" if kind == "jpeg" else "digit.png")
    distances = []
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
        distances.append(np.abs(load_digit_image(path) - image / 255).mean())

    assert np.mean(distances) < (1e-6 if kind == "as it is" else 0.04)


def test_file_without_a_digit_is_rejected(tmp_path):
    Image.new("L", (40, 40), 180).save(tmp_path / "blank.png")
    (tmp_path / "text.png").write_text("seven")

    for name, kind, message in (
        ("blank.png", UsageError, "shows no digit"),
        ("text.png", UsageError, "cannot read .* as an image"),
        ("no.png", NotFound, "no image file"),
    ):
        with pytest.raises(kind, match=message):
            load_digit_image(tmp_path / name)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_champion_is_exported_verified_and_used(command, mnist_dir, tmp_path, digits):
    data = ("--data-dir", mnist_dir)
    quick = ("--epochs", "2", "--train-images", "4000", "--val-images", "1000", "--no-mlflow")
    assert command("run", "--budget", "1500", "--trials", "1", *quick, *data).code == 0
    Image.fromarray(digits.images[0, 0].numpy()).save(tmp_path / "digit.png")

    unpublished = command("export", "budget-1500", "--publish")
    assert (unpublished.code, unpublished.err.count("\n")) == (2, 1)
    assert "mnist-search finalize budget-1500" in unpublished.err
    assert not (tmp_path / "1500").exists()

    exported = command("export", "budget-1500", "--to", "pt2", "--to", "onnx", "--to", "safetensors")

    assert exported.code == 0, exported.err
    names = exported.out.split()
    assert [name.rpartition(".")[2] for name in names] == ["pt2", "onnx", "safetensors", "json", "md"]
    card = json.loads((tmp_path / "budget-1500.json").read_text())
    predictions = set()
    for name in names[:3]:
        assert b"mnist_search/" not in (tmp_path / name).read_bytes()  # paths of this machine
        verified = command("verify", name, *data, "--format", "json")
        assert verified.code == 0, verified.err
        assert json.loads(verified.out)["val_accuracy"] == pytest.approx(card["val_accuracy"], abs=1e-3)
        (row,) = json.loads(command("predict", name, "digit.png", "--format", "json").out)
        assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-4)
        predictions.add(row["digit"])
    assert len(predictions) == 1
    (tmp_path / "budget-1500.json").write_text(json.dumps(card | {"val_accuracy": 0.999}))
    wrong = command("verify", "budget-1500.pt2", *data)
    assert (wrong.code, wrong.err.count("\n")) == (1, 1)
    assert "not the network that its model card describes" in wrong.err
