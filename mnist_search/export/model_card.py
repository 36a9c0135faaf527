"""The model card: architecture, training, accuracy, usage and limits of a network."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from search_space.serialization import from_dict


def markdown(name: str, card: Mapping[str, Any]) -> str:
    """The card of a champion as Markdown; ``name`` is that of its files."""
    text = files("mnist_search.export").joinpath("model_card.md").read_text("utf-8")
    template = Environment(trim_blocks=True, undefined=StrictUndefined).from_string(text)  # noqa: S701 - no HTML
    configs = {key: from_dict(card[key]) for key in ("architecture", "training")}
    return template.render(dict(card) | configs, name=name)
