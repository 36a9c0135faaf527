"""Use of exported files: verify one against its card, classify images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mnist_search.data.dataset import Digits, load_split, load_test
from mnist_search.data.mnist import resolve_data_dir
from mnist_search.errors import MnistSearchError, NotFound, UnusableConfiguration, UsageError
from mnist_search.export.digit_image import load_digit_image
from mnist_search.export.formats import Classifier, read_model
from mnist_search.files import read_text
from mnist_search.training.evaluate import evaluate
from mnist_search.training.model import count


def verify_file(file: Path, data_dir: Path | None) -> tuple[dict[str, Any], bool]:
    """Parameters and accuracy of an exported file and those on its card, and whether they agree.

    Accuracies agree if they differ by one image at most. In an ONNX file, parameters are not separated
    from running statistics, and not counted.

    Raises:
        MnistSearchError: the file does not have the digest on its card.
        NotFound: no such file.
        UnusableConfiguration: its card is missing, or one of the two is damaged.
        Unavailable: no images to evaluate on.
    """
    network, card = read_with_card(file)
    measure, digits = evaluation_digits(card, data_dir)
    accuracy = evaluate(network, digits).accuracy
    parameters = count(network) if isinstance(network, nn.Module) else None
    document = {
        "file": str(file),
        "parameters": parameters,
        "parameters_on_card": card["parameters"],
        measure: accuracy,
        f"{measure}_on_card": card[measure],
    }
    same_parameters = parameters in {None, card["parameters"]}
    return document, same_parameters and abs(accuracy - card[measure]) * len(digits) <= 1


def read_with_card(file: Path) -> tuple[Classifier, dict[str, Any]]:
    """The network of an exported file, and its card.

    Raises:
        MnistSearchError: the file does not have the digest on its card.
        NotFound: no such file.
        UnusableConfiguration: its card is missing, or one of the two is damaged.
    """
    card = _read_card(file) if file.is_file() else {}
    expected = card.get("sha256", {}).get(file.suffix[1:])  # version 0.1 wrote none
    if expected and hashlib.sha256(file.read_bytes()).hexdigest() != expected:
        raise MnistSearchError(f"{file} is damaged: its card has another SHA-256; export it again")
    return read_model(file), card


def evaluation_digits(card: Mapping[str, Any], data_dir: Path | None) -> tuple[str, Digits]:
    """Name of the accuracy on a card, and the images that it was measured on."""
    folder = resolve_data_dir(data_dir)
    if card.get("test_accuracy") is not None:
        return "test_accuracy", load_test(folder)
    return "val_accuracy", load_split(folder, *card["split"]).val


def _read_card(file: Path) -> dict[str, Any]:
    for path in filter(Path.is_file, (file.with_suffix(".json"), file.with_name("card.json"))):
        try:
            card = json.loads(read_text(path, "name another model file"))
        except ValueError as error:
            raise UnusableConfiguration(f"{path} is damaged: {error}; export the network again") from error
        if isinstance(card, dict) and "parameters" in card:
            if damaged := _damaged_fields(card):
                raise UnusableConfiguration(
                    f"{path} has no valid {damaged[0]}; export the network again with its card"
                )
            return card
    raise UnusableConfiguration(f"{file} has no model card; mnist-search export writes {file.stem}.json")


def _damaged_fields(card: Mapping[str, Any]) -> list[str]:
    """Fields that ``verify_file`` needs and that are missing or of another type."""
    measure = "val_accuracy" if card.get("test_accuracy") is None else "test_accuracy"
    digests, split = card.get("sha256", {}), card.get("split")
    is_valid = {
        "parameters": isinstance(card["parameters"], int),
        measure: isinstance(card.get(measure), int | float),
        "sha256": isinstance(digests, dict) and all(isinstance(each, str) for each in digests.values()),
        "split": measure == "test_accuracy" or _is_split(split),
    }
    return [name for name, valid in is_valid.items() if not valid]


def _is_split(split: object) -> bool:
    """Whether it is a number of training images, a number of validation images and a seed."""
    match split:
        case [int(train), int(val), int(seed)]:
            return train >= 0 and 0 < val <= 60_000 - train and 0 <= seed < 2**32
    return False


def predict_images(
    file: Path, images: Sequence[Path]
) -> tuple[list[dict[str, Any]], list[UsageError | NotFound]]:
    """A row per image, and the errors of the images that cannot be classified.

    A row has the predicted digit, its probability and the probability of every digit, or ``error``.

    Raises:
        NotFound: no model file.
        UnusableConfiguration: it is damaged.
    """
    network = read_model(file)
    rows: list[dict[str, Any]] = []
    errors: list[UsageError | NotFound] = []
    for path in images:
        row = {"image": str(path), "digit": None, "probability": None, "probabilities": None, "error": None}
        try:
            rows.append(row | _predict(network, load_digit_image(path)))
        except (UsageError, NotFound) as error:
            errors.append(error)
            rows.append(row | {"error": str(error)})
    return rows, errors


@torch.no_grad()
def _predict(network: Classifier, image: np.ndarray) -> dict[str, Any]:
    [probabilities] = network(torch.from_numpy(image)[None, None]).double().softmax(1)
    return {
        "digit": int(probabilities.argmax()),
        "probability": float(probabilities.max()),
        "probabilities": [round(probability, 6) for probability in probabilities.tolist()],
    }
