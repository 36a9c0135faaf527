"""Verbs that take a network out and use it: export, verify, predict."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mnist_search.cli.options import (
    DEFAULT_STORAGE,
    DataOption,
    Format,
    FormatOption,
    StorageOption,
    StudyArgument,
)
from mnist_search.cli.output import print_fields, print_rows
from mnist_search.errors import DiskError, MnistSearchError, UnusableConfiguration, UsageError

if TYPE_CHECKING:
    import numpy as np

    from mnist_search.evaluation.champion import Champion


class Kind(StrEnum):
    """How a network is written."""

    PT2 = "pt2"
    ONNX = "onnx"
    SAFETENSORS = "safetensors"


FileArgument = Annotated[Path, typer.Argument(help="A .pt2, .onnx or .safetensors file.")]


def export(
    study: StudyArgument,
    to: Annotated[list[Kind] | None, typer.Option("--to", help="Format; may be given again.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write into.")] = Path(),
    trial: Annotated[
        int | None, typer.Option(min=0, help="This trial's network instead of the champion's.")
    ] = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="As OUTPUT/BUDGET/model.*, every format; after finals only.")
    ] = False,
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """Write a study's champion as files that need no mnist-search, with a card that describes it.

    The champion is the finalist that validation put first, trained on all 60,000 images with the
    first seed; before finalize, it is the best trial. Files hold no pickle.
    """
    from mnist_search.evaluation.champion import champion  # Optuna
    from mnist_search.storage.database import Store

    found = champion(Store.open(storage), study, trial)
    if not output.is_dir():
        raise DiskError(f"no folder {output}; make it, or name another with --output")
    name, card_name = (study, study) if trial is None else (f"{study}-trial-{trial}",) * 2
    if publish:
        if found.card.get("test_accuracy") is None:
            raise UsageError(f"only a champion of finals is published; mnist-search finalize {study}")
        name, card_name, output = "model", "card", output / str(found.card["budget"])
    for path in _write(found, to or (list(Kind) if publish else [Kind.PT2]), output, name, card_name):
        typer.echo(path)


def _write(found: Champion, kinds: list[Kind], folder: Path, name: str, card_name: str) -> Iterator[Path]:
    """Write a network in these formats, then its card for programs and for people."""
    from mnist_search.export import formats, model_card  # torch

    try:
        folder.mkdir(exist_ok=True)
        for kind in kinds:
            path = folder / f"{name}.{kind.value}"
            formats.write(path, found.config.architecture, found.weights)
            yield path
        texts = {".json": json.dumps(found.card, indent=1), ".md": model_card.markdown(name, found.card)}
        for suffix, text in texts.items():
            path = folder / f"{card_name}{suffix}"
            path.write_text(text + "\n")
            yield path
    except OSError as error:
        raise DiskError(f"cannot write to {folder}: {error}; name another folder with --output") from error


def verify(file: FileArgument, data_dir: DataOption = None, how: FormatOption = Format.TABLE) -> None:
    """Load an exported network, count its parameters, and judge it again on what its card tells of."""
    from mnist_search.export import formats  # torch

    network, told = formats.read(file), _card_of(file)
    pixels, labels, name = _images(told, data_dir)
    accuracy = float((_in_batches(network.logits, pixels).argmax(1) == labels).mean())
    document = {
        "file": str(file),
        "parameters": network.parameters,
        "parameters_on_card": told["parameters"],
        name: accuracy,
        f"{name}_on_card": told[name],
    }
    print_fields(document, how)
    wrong = (
        network.parameters not in (None, told["parameters"]) or abs(accuracy - told[name]) * len(labels) > 1
    )
    if wrong:
        raise MnistSearchError(f"{file} is not the network that its card describes; export it again")


def predict(
    file: FileArgument,
    images: Annotated[list[Path], typer.Argument(help="PNG or JPEG files, a digit each.")],
    how: FormatOption = Format.TABLE,
) -> None:
    """Tell which digit is in each picture, with the probability of every digit.

    Pictures are made like MNIST's first: inverted if they are dark on light, cut out, centred.
    """
    import numpy as np

    from mnist_search.export import formats  # torch
    from mnist_search.export.digit_image import load_digit_image

    network = formats.read(file)
    pixels = np.stack([load_digit_image(path) for path in images])[:, None]
    logits = network.logits(pixels).astype(np.float64)
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = shifted / shifted.sum(1, keepdims=True)
    rows = [
        {"image": str(path), "digit": int(p.argmax()), "probability": float(p.max()),
         "probabilities": [round(float(each), 6) for each in p]}
        for path, p in zip(images, probabilities, strict=True)
    ]  # fmt: skip
    columns = ("image", "digit", "probability")
    print_rows(rows, how, columns if how == Format.CSV else (*columns, "probabilities"))


def _card_of(file: Path) -> dict[str, Any]:
    for path in (file.with_suffix(".json"), file.with_name("card.json")):
        if path.is_file():
            try:
                told = json.loads(path.read_text())
                if isinstance(told, dict) and "parameters" in told:
                    return told
            except ValueError as error:
                raise UnusableConfiguration(
                    f"{path} is damaged: {error}; export the network again"
                ) from error
    raise UnusableConfiguration(f"no card beside {file}; mnist-search export writes {file.stem}.json")


def _images(told: dict[str, Any], data_dir: Path | None) -> tuple[np.ndarray, np.ndarray, str]:
    """What the card's accuracy was measured on: pixels, labels, and the accuracy's name."""
    from mnist_search.data import mnist
    from mnist_search.data.dataset import shuffle

    folder = mnist.find(data_dir)
    if told.get("test_accuracy") is not None:
        images, labels = mnist.read_test(folder)
        name = "test_accuracy"
    else:
        _, val, seed = told["split"]
        images, labels = (part[:val] for part in shuffle(*mnist.read_training(folder), seed))
        name = "val_accuracy"
    return images[:, None].astype("float32") / 255, labels, name


def _in_batches(logits: Any, pixels: np.ndarray, size: int = 1000) -> np.ndarray:
    import numpy as np

    return np.concatenate([logits(pixels[at : at + size]) for at in range(0, len(pixels), size)])
