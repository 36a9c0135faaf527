"""Search for the most accurate MNIST network within a parameter budget."""

from __future__ import annotations

from typing import Any

__all__ = ["__version__"]


def __getattr__(name: str) -> Any:
    """Resolve public names on first use, so that ``import mnist_search`` loads nothing heavy."""
    if name == "__version__":
        from importlib.metadata import version

        return version("mnist-search")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
