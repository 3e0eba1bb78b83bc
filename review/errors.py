"""The one exception that reaches the user."""


class ReviewError(Exception):
    """What is wrong, what it stops and how to mend it; `python -m review` prints it and exits 1."""
