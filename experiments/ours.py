"""Our own training, for networks that come without one.

Purpose: to tell what is due to a network from what is due to its training.
Source: what the best published networks of 6,000 to 10,000 parameters have in common: SGD with
momentum and a one-cycle schedule per step that ends near zero, batches of 64, small affine maps,
15 epochs.
Cost: 15 epochs.
Command: mnist-search reproduce all
"""

from search_space.training import SGD, Augmentation, OneCycle, TrainingConfig

TRAINING = TrainingConfig(
    epochs=15,
    batch_size=64,
    optimizer=SGD(0.1, nesterov=True, weight_decay=1e-4),
    schedule=OneCycle(),
    augmentation=Augmentation.of_strength(0.5),
)
