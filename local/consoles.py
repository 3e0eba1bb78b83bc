"""Consoles on which a text is what it is: names, messages and paths come from others, and none is markup."""

import sys
from io import TextIOWrapper

from rich.console import Console


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console that takes nothing in a text for a style, a link or an emoji."""
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def write_anything() -> None:
    """Have stdout and stderr write what their encoding cannot say as `\\xfc`, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
