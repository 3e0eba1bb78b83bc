"""The log of the platform's services: one object of JSON a line on standard output.

Each line has `at`, `level`, `logger` and `message`, and `tenant` where it is about one. Tokens and what
tenants write or ask are never logged.
"""

import logging
import sys

from pythonjsonlogger.json import JsonFormatter


def to_stdout() -> None:
    """Write every record from INFO on; an exception is a field of its record, so that it stays one line."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        JsonFormatter(
            ["levelname", "name", "message"],
            rename_fields={"levelname": "level", "name": "logger"},
            timestamp="at",
            json_ensure_ascii=False,
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler])
