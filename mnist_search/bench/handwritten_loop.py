"""The training loop that the authors of the baselines wrote by hand, for comparison.

``torchvision.transforms`` on one PIL image at a time, a ``DataLoader``, fp32, ``.item()`` and a
``tqdm`` bar at every step. It is not tuned, except for the number of loader processes.
"""

import io
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
from search_space.training_config import SGD, Adam, Augmentation

Transform: TypeAlias = Callable[[Image.Image], torch.Tensor]


class PilDigits(Dataset[tuple[torch.Tensor, int]]):
    """Digits as PIL images with transforms, like ``torchvision.datasets.MNIST``."""

    def __init__(self, digits: Digits, transform: Transform) -> None:
        self._images = digits.images.squeeze(1).numpy()
        self._labels = digits.labels.tolist()
        self._transform = transform

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._transform(Image.fromarray(self._images[index])), self._labels[index]


def baseline_transforms(augmentation: Augmentation) -> Transform:
    """The transforms of the baselines: rotation, other affine maps, tensor, normalization."""
    from torchvision import transforms  # takes 1.5 s; the project's own loop does not need it

    mode = transforms.InterpolationMode(augmentation.interpolation)
    steps: list[Any] = []
    if augmentation.rotation:
        fill = (round(255 * augmentation.fill),)
        steps.append(transforms.RandomRotation(augmentation.rotation, mode, fill=fill))
    translation, scale, shear = augmentation.translation, augmentation.scale, augmentation.shear
    if shear or translation != (0.0, 0.0) or scale != (1.0, 1.0):
        steps.append(transforms.RandomAffine(0, translation, scale, (-shear, shear) if shear else None, mode))
    steps += [transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))]
    composed: Transform = transforms.Compose(steps)
    return composed


def handwritten_loop(
    recipe: Recipe, digits: Digits, num_workers: int, device: str = "cpu", epochs: int = 1
) -> Iterator[tuple[int, float, float]]:
    """Train ``recipe`` as its author does, at a constant learning rate, in ``epochs`` passes over ``digits``.

    A ``DataLoader`` with ``num_workers`` processes transforms the images on the CPU. Yields the
    number of images, the loss, and the accuracy of the epoch so far, at every step.
    """
    loader = DataLoader(
        PilDigits(digits, baseline_transforms(recipe.training.augmentation)),
        batch_size=recipe.training.batch_size,
        shuffle=True,
        num_workers=num_workers,
        # The platform's default; processes of the pool would default to spawn.
        multiprocessing_context=get_all_start_methods()[0] if num_workers else None,
    )
    network = nn.Sequential(*modules(recipe.architecture, REFERENCE_LAYERS)).to(device)
    match recipe.training.optimizer:
        case SGD(lr, momentum):
            optimizer: torch.optim.Optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=momentum)
        case Adam(lr, decay):
            optimizer = torch.optim.Adam(network.parameters(), lr=lr, weight_decay=decay)
    network.train()
    for _ in range(epochs):
        correct = total = 0
        with tqdm(loader, file=io.StringIO()) as bar:  # the cost of the bar counts; its output is dropped
            for batch in bar:
                images, labels = (part.to(device) for part in batch)
                optimizer.zero_grad()
                logits = network(images)
                loss = F.cross_entropy(logits, labels)
                loss.backward()
                optimizer.step()
                correct += logits.argmax(dim=1).eq(labels).sum().item()
                total += len(labels)
                bar.set_description(f"loss={loss.item():.4f} accuracy={100 * correct / total:.2f}")
                yield len(labels), loss.item(), correct / total
