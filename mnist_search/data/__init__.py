"""MNIST files and tensors."""
