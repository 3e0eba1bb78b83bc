"""The one exception that reaches the user."""


class RestoreError(Exception):
    """A message for the user: the mistake, its consequence and its remedy; `python -m restore` exits 1."""
