"""MNIST as tensors."""
