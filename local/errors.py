"""The one exception that reaches the user."""


class LocalError(Exception):
    """What is wrong, what it stops and how to mend it; `python -m local` prints it and exits 1."""
