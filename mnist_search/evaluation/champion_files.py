"""A study's champion as model files with a card."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from mnist_search.errors import DiskError, UsageError
from mnist_search.evaluation.champion import champion
from mnist_search.export.formats import FORMATS, export_model
from mnist_search.export.model_card import markdown
from mnist_search.files import write_file
from mnist_search.storage.database import Store


def export_champion(
    storage: str, study: str, trial: int | None, formats: Sequence[str], folder: Path, *, publish: bool
) -> Iterator[Path]:
    """Write a champion, then its card as JSON and as Markdown; yields each file once it is written.

    ``trial`` is exported instead of the champion. ``formats`` are suffixes without dot; by default pt2,
    or every format with ``publish``, which names the files FOLDER/BUDGET/model.* and card.*. The folder
    must exist.

    Raises:
        NotFound: no such study or trial, or its weights were not kept.
        UsageError: ``publish`` without finals.
        DiskError: a file cannot be written.
    """
    network = champion(Store.open(storage), study, trial)
    if not folder.is_dir():
        raise DiskError(f"no folder {folder}; create it, or name another with --output")
    name = card_name = study if trial is None else f"{study}-trial-{trial}"
    if publish:
        if network.card.get("test_accuracy") is None:
            raise UsageError(f"{study!r} has no finals to publish; run mnist-search finalize {study} first")
        name, card_name, folder = "model", "card", folder / str(network.card["budget"])
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise DiskError(f"cannot create {folder}: {error}; name another with --output") from error
    digests: dict[str, str] = {}
    with suppress(OSError, ValueError, LookupError, TypeError):  # files of an earlier export remain valid
        digests |= json.loads((folder / f"{card_name}.json").read_text("utf-8"))["sha256"]
    suffixes = [f".{each}" for each in formats] or (list(FORMATS) if publish else [".pt2"])
    for suffix in suffixes:
        path = folder / f"{name}{suffix}"
        digests[suffix[1:]] = export_model(path, network.config.architecture, network.weights)
        yield path
    card = network.card | {"sha256": digests}
    for suffix, text in {".json": json.dumps(card, indent=1), ".md": markdown(name, card)}.items():
        path = folder / f"{card_name}{suffix}"
        write_file(path, f"{text}\n", "name another folder with --output")
        yield path
