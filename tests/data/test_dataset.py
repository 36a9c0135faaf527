"""The split into training and validation images."""

from __future__ import annotations

import torch
from support import make_split

from mnist_search.data.dataset import load_split


def test_split_is_disjoint_and_validation_does_not_depend_on_the_training_size(digits):
    numbered = type(digits)(digits.images, torch.arange(len(digits)))

    split = make_split(numbered, train=3000, val=1000, seed=0)
    smaller = make_split(numbered, train=1000, val=1000, seed=0)

    assert not set(split.train.labels.tolist()) & set(split.val.labels.tolist())
    assert torch.equal(split.val.labels, smaller.val.labels)
    assert not torch.equal(split.val.labels, make_split(numbered, 3000, 1000, seed=1).val.labels)


def test_load_split_takes_the_sizes_and_the_seed_of_a_study(mnist_dir, study_config):
    split = load_split(mnist_dir, *study_config.split)

    assert (len(split.train), len(split.val)) == (study_config.train_images, study_config.val_images)
    assert split.train.images.dtype == torch.uint8
