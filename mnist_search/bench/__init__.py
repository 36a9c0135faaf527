"""How fast we are, beside how fast the same work is done by hand."""
