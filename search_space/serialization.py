"""Networks and trainings as plain values, for JSON, and back."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias

from search_space import architecture, training_config

Plain: TypeAlias = Any
"""None, bool, int, float, str, and lists and dicts of them."""

KIND = "kind"

KINDS: dict[str, type] = {
    kind.__name__: kind
    for room in (architecture, training_config)
    for kind in vars(room).values()
    if isinstance(kind, type) and is_dataclass(kind) and kind.__module__ == room.__name__
}
"""Every layer, optimizer, schedule and what holds them, by name."""


def to_dict(value: Any) -> Plain:
    """A description of a network or a training as plain values; each part says its kind."""
    if is_dataclass(value):
        parts = {f.name: to_dict(getattr(value, f.name)) for f in fields(value)}
        return {KIND: type(value).__name__} | parts
    if isinstance(value, tuple):
        return [to_dict(part) for part in value]
    return value


def from_dict(plain: Plain) -> Any:
    """What ``to_dict`` described.

    Raises:
        ValueError: no description of ours.
    """
    match plain:
        case {"kind": str(name), **parts}:
            if name not in KINDS:
                raise ValueError(f"nothing of ours is a {name!r}; a newer mnist-search may know it")
            try:
                return KINDS[name](**{str(part): from_dict(value) for part, value in parts.items()})
            except TypeError as error:
                raise ValueError(f"no description of a {name}: {error}") from None
        case dict():
            raise ValueError("a part of the description does not say its kind")
        case list():
            return tuple(from_dict(part) for part in plain)
    return plain
