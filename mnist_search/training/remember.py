"""What was measured of a device once, kept in the user's cache folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from platformdirs import user_cache_path

from mnist_search.training.device import describe_device


def cache_folder() -> Path:
    """Where measurements are kept by default."""
    return user_cache_path("mnist-search")


def remembered(
    cache: Path,
    device: torch.device,
    measure: Callable[[], dict[str, Any]],
    is_whole: Callable[[dict[str, Any]], bool] = lambda _: True,
) -> dict[str, Any]:
    """What was measured on this device with this torch before, or is now, by one process at a time.

    Args:
        cache: a JSON file; where it cannot be kept, ``measure`` is called every time.
        device: the figures are this device's.
        measure: figures by name.
        is_whole: whether figures that were kept are all that is wanted today.
    """
    here = f"{describe_device(device)}, {_instructions()}, torch {torch.__version__}"
    with suppress(OSError):  # a cache that cannot be kept is no reason not to train
        cache.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{cache}.lock"):
            known = _read(cache)
            if here not in known or not is_whole(known[here]):
                known[here] = measure()
                cache.write_text(json.dumps(known, indent=1))
            return known[here]
    return measure()


def _read(cache: Path) -> dict[str, dict[str, Any]]:
    try:
        known = json.loads(cache.read_text())
    except (FileNotFoundError, ValueError):  # none yet, or cut short: it is written anew
        return {}
    return known if isinstance(known, dict) else {}


def _instructions() -> str:
    """What the CPU can do, which its name does not tell on a virtual machine."""
    return " ".join(sorted(name for name, there in torch.cpu.get_capabilities().items() if there is True))
