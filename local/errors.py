"""The one exception that reaches the user."""


class LocalError(Exception):
    """What is wrong, what it stops and how to mend it, in one message; `python -m local` prints it and exits 1."""
