"""The benchmark behind the verb ``bench``: training, search and the overhead around them."""
