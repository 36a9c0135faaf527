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
from mnist_search.errors import MnistSearchError, UnusableConfiguration
from mnist_search.export.digit_image import load_digit_image
from mnist_search.export.formats import Classifier, read_model
from mnist_search.training.evaluate import evaluate
from mnist_search.training.model import count


def verify_file(file: Path, data_dir: Path | None) -> tuple[dict[str, Any], bool]:
    """Parameters and accuracy of an exported file and those on its card, and whether they agree.

    Accuracies agree if they differ by one image at most. In an ONNX file, parameters are not separated
    from running statistics, and not counted.

    Raises:
        MnistSearchError: the file does not have the digest on its card.
        UnusableConfiguration: the file or its card is missing or damaged.
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
        UnusableConfiguration: the file or its card is missing or damaged.
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
            card = json.loads(path.read_text())
        except ValueError as error:
            raise UnusableConfiguration(f"{path} is damaged: {error}; export the network again") from error
        if isinstance(card, dict) and "parameters" in card:
            return card
    raise UnusableConfiguration(f"{file} has no model card; mnist-search export writes {file.stem}.json")


@torch.no_grad()
def predict_images(file: Path, images: Sequence[Path]) -> list[dict[str, Any]]:
    """A row per image: the predicted digit, its probability and the probability of every digit.

    Raises:
        UnusableConfiguration: the model file is missing or damaged.
        UsageError: an image is missing or shows no digit.
    """
    network = read_model(file)
    pixels = torch.from_numpy(np.stack([load_digit_image(path) for path in images])).unsqueeze(1)
    return [
        {
            "image": str(path),
            "digit": int(row.argmax()),
            "probability": float(row.max()),
            "probabilities": [round(probability, 6) for probability in row.tolist()],
        }
        for path, row in zip(images, network(pixels).double().softmax(1), strict=True)
    ]
