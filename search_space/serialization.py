"""Architectures and training configurations to JSON-compatible values and back."""

from dataclasses import fields, is_dataclass
from typing import Any

from search_space import architecture, training_config

KINDS: dict[str, type] = {
    kind.__name__: kind
    for module in (architecture, training_config)
    for kind in vars(module).values()
    if isinstance(kind, type) and is_dataclass(kind) and kind.__module__ == module.__name__
}
"""Serializable classes by name."""


def to_dict(value: Any) -> Any:
    """Convert dataclasses to dicts with the class name under ``kind``, and tuples to lists."""
    if is_dataclass(value):
        parts = {f.name: to_dict(getattr(value, f.name)) for f in fields(value)}
        return {"kind": type(value).__name__} | parts
    if isinstance(value, tuple):
        return [to_dict(part) for part in value]
    return value


def from_dict(plain: Any) -> Any:
    """Invert ``to_dict``.

    Raises:
        ValueError: unknown kind, or wrong fields.
    """
    match plain:
        case {"kind": str(name), **parts}:
            if name not in KINDS:
                raise ValueError(f"unknown kind {name!r}; a newer mnist-search may support it")
            try:
                return KINDS[name](**{str(part): from_dict(value) for part, value in parts.items()})
            except TypeError as error:
                raise ValueError(f"not a valid {name}: {error}") from None
        case dict():
            raise ValueError("a dict has no kind")
        case list():
            return tuple(from_dict(part) for part in plain)
    return plain
