"""Use of exported files: verify one against its card, classify images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mnist_search.data.dataset import Digits, load_split, load_test
from mnist_search.data.mnist import resolve_data_dir
from mnist_search.errors import MnistSearchError, UnusableConfiguration
from mnist_search.export.digit_image import load_digit_image
from mnist_search.export.formats import Artifact, read_artifact
from mnist_search.training.evaluate import evaluate


def verify_file(file: Path, data_dir: Path | None) -> tuple[dict[str, Any], bool]:
    """Parameters and accuracy of an exported file and those on its card, and whether they agree.

    Accuracies agree if they differ by one image at most.

    Raises:
        MnistSearchError: the file does not have the digest on its card.
        UnusableConfiguration: the file or its card is missing or damaged.
        Unavailable: no images to evaluate on.
    """
    artifact, card = read_with_card(file)
    measure, digits = evaluation_digits(card, data_dir)
    accuracy = evaluate(lambda pixels: torch.from_numpy(artifact.logits(pixels.numpy())), digits).accuracy
    same_parameters = artifact.parameters in {None, card["parameters"]}
    document = {
        "file": str(file),
        "parameters": artifact.parameters,
        "parameters_on_card": card["parameters"],
        measure: accuracy,
        f"{measure}_on_card": card[measure],
    }
    return document, same_parameters and abs(accuracy - card[measure]) * len(digits) <= 1


def read_with_card(file: Path) -> tuple[Artifact, dict[str, Any]]:
    """An exported file and its card.

    Raises:
        MnistSearchError: the file does not have the digest on its card.
        UnusableConfiguration: the file or its card is missing or damaged.
    """
    card = _read_card(file) if file.is_file() else {}
    expected = card.get("sha256", {}).get(file.suffix[1:])  # version 0.1 wrote none
    if expected and hashlib.sha256(file.read_bytes()).hexdigest() != expected:
        raise MnistSearchError(f"{file} is damaged: its card has another SHA-256; export it again")
    return read_artifact(file), card


def evaluation_digits(card: Mapping[str, Any], data_dir: Path | None) -> tuple[str, Digits]:
    """Name of the accuracy on a card, and the images that it was measured on."""
    folder = resolve_data_dir(data_dir)
    if card.get("test_accuracy") is not None:
        return "test_accuracy", load_test(folder)
    return "val_accuracy", load_split(folder, *card["split"]).val


def _read_card(file: Path) -> dict[str, Any]:
    for path in (file.with_suffix(".json"), file.with_name("card.json")):
        if path.is_file():
            try:
                card = json.loads(path.read_text())
            except ValueError as error:
                raise UnusableConfiguration(
                    f"{path} is damaged: {error}; export the network again"
                ) from error
            if isinstance(card, dict) and "parameters" in card:
                return card
    raise UnusableConfiguration(f"{file} has no model card; mnist-search export writes {file.stem}.json")


def predict_images(file: Path, images: Sequence[Path]) -> list[dict[str, Any]]:
    """A row per image: the predicted digit, its probability and the probability of every digit.

    Raises:
        UnusableConfiguration: the model file is missing or damaged.
        UsageError: an image is missing or shows no digit.
    """
    artifact = read_artifact(file)
    pixels = np.stack([load_digit_image(path) for path in images])[:, None]
    logits = torch.from_numpy(artifact.logits(pixels)).double()
    return [
        {
            "image": str(path),
            "digit": int(probabilities.argmax()),
            "probability": float(probabilities.max()),
            "probabilities": [round(float(probability), 6) for probability in probabilities],
        }
        for path, probabilities in zip(images, logits.softmax(1), strict=True)
    ]
