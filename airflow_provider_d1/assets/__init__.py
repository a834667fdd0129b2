"""Assets for D1 databases and tables."""
