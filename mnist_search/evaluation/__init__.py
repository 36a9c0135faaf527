"""Final evaluation on the test set."""
