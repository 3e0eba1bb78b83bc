"""A customer of the roster, and everything that makes its own computer."""
