"""Search for the most accurate MNIST network within a parameter budget; ``mnist_search.api`` has examples."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["Study", "StudyConfig", "__version__", "load_model", "open_study", "run_study"]

if TYPE_CHECKING:
    from mnist_search.api import Study, StudyConfig, load_model, open_study, run_study

    __version__: str
else:

    def __getattr__(name: str) -> Any:
        """Resolve public names on first use, so that ``import mnist_search`` loads nothing heavy."""
        if name == "__version__":
            from importlib.metadata import version

            return version("mnist-search")
        if name in __all__:
            return getattr(import_module("mnist_search.api"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
