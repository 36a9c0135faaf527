"""Networks, training and evaluation; independent of the search."""
