"""The one exception that reaches the user."""


class CostsError(Exception):
    """A message for the user: the mistake, its consequence and its remedy; `python -m costs` exits 1."""
