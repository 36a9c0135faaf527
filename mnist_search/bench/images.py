"""The images that are trained on while the clock runs."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from mnist_search.data.dataset import Split, load_split


@cache
def images(data_dir: Path, device: str) -> Split:
    """The usual split, read once per process."""
    return load_split(data_dir, train=50_000, val=10_000, seed=0, device=torch.device(device))
