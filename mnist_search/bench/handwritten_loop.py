"""The loop that people write by hand, and that the five seeds share; what ours is measured against.

``torchvision.transforms`` on one PIL image at a time, a ``DataLoader``, fp32, ``.item()`` and a
``tqdm`` bar at every step. Written as their authors describe it, so it is not tuned here, except
that the number of loader processes is theirs to choose.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_all_start_methods
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from experiments.recipe import Recipe
from mnist_search.data.dataset import Digits
from mnist_search.training.model import MEAN, REFERENCE_LAYERS, STD, modules
from search_space.training_config import SGD, Adam, Augmentation, Optimizer

Transform: TypeAlias = Callable[[Image.Image], torch.Tensor]


class PilDigits(Dataset[tuple[torch.Tensor, int]]):
    """Digits as ``torchvision.datasets.MNIST`` gives them: a PIL image at a time, then transforms."""

    def __init__(self, digits: Digits, transform: Transform) -> None:
        self._images = digits.images.squeeze(1).numpy()
        self._labels = digits.labels.tolist()
        self._transform = transform

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._transform(Image.fromarray(self._images[index])), self._labels[index]


def seed_transforms(how: Augmentation) -> Transform:
    """The seeds' chain: rotation, then the rest of the affine map, then a tensor."""
    from torchvision import transforms  # a second and a half to import, which our own loop never needs
    from torchvision.transforms import InterpolationMode

    mode = InterpolationMode(how.interpolation)
    steps: list[Any] = []
    if how.rotation:
        steps.append(transforms.RandomRotation(how.rotation, mode, fill=(round(255 * how.fill),)))
    if how.shear or how.translation != (0.0, 0.0) or how.scale != (1.0, 1.0):
        shear = (-how.shear, how.shear) if how.shear else None
        steps.append(transforms.RandomAffine(0, how.translation, how.scale, shear, mode))
    chain: Transform = transforms.Compose(
        [*steps, transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))]
    )
    return chain


def handwritten_loop(
    recipe: Recipe,
    digits: Digits,
    loader_processes: int,
    on_step: Callable[[float, float], None] = lambda *_: None,
    device: str = "cpu",
    epochs: int = 1,
) -> Iterator[int]:
    """Train ``recipe`` as its author does; yields the images of each step.

    Args:
        recipe: the network with its training.
        digits: images to learn from.
        loader_processes: ``num_workers`` of the ``DataLoader``.
        on_step: told of every step's loss and of the accuracy of the epoch so far.
        device: where the network is; images are made on the CPU and sent there.
        epochs: at a constant learning rate.
    """
    how = recipe.training
    loader = DataLoader(
        PilDigits(digits, seed_transforms(how.augmentation)),
        batch_size=how.batch_size,
        shuffle=True,
        num_workers=loader_processes,
        # A script's own default: here the default would be that of our warm processes.
        multiprocessing_context=get_all_start_methods()[0] if loader_processes else None,
    )
    network = nn.Sequential(*modules(recipe.architecture, REFERENCE_LAYERS)).to(device)
    optimizer = _optimizer(network, how.optimizer)
    network.train()
    for _ in range(epochs):
        correct = seen = 0
        with tqdm(loader, file=io.StringIO()) as bar:  # its work counts, its picture does not
            for batch in bar:
                images, labels = (part.to(device) for part in batch)
                optimizer.zero_grad()
                logits = network(images)
                loss = F.cross_entropy(logits, labels)
                loss.backward()
                optimizer.step()
                correct += logits.argmax(dim=1).eq(labels).sum().item()
                seen += len(labels)
                bar.set_description(f"loss={loss.item():.4f} accuracy={100 * correct / seen:.2f}")
                on_step(loss.item(), correct / seen)
                yield len(labels)


def _optimizer(network: nn.Module, how: Optimizer) -> torch.optim.Optimizer:
    match how:
        case SGD(lr, momentum):
            return torch.optim.SGD(network.parameters(), lr=lr, momentum=momentum)
        case Adam(lr, decay):
            return torch.optim.Adam(network.parameters(), lr=lr, weight_decay=decay)


def steady_rate(
    steps: Iterator[int], warm_up: int, timed: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Images per second over ``timed`` steps, once ``warm_up`` steps have brought it to speed."""
    for _ in range(warm_up):
        next(steps)
    started = clock()
    images = sum(next(steps) for _ in range(timed))
    return images / (clock() - started)
