"""Records and contracts that every other room may read."""
