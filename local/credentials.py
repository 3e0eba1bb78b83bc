"""Passwords, keys and tokens of the embedded platform: random, made once, readable by the owner only."""

import secrets
from collections.abc import Mapping

from local import store
from local.paths import DATA

_FILE = DATA / "credentials.json"


def secret(name: str) -> str:
    """Return the secret `name`, made at the first call: 48 hexadecimal digits, safe in a URL or shell."""
    with store.edit(_FILE) as kept:
        return str(kept.setdefault(name, secrets.token_hex(24)))


def keep(issued: Mapping[str, str]) -> None:
    """Keep secrets that a server issued, by name, all in one step."""
    with store.edit(_FILE) as kept:
        kept.update(issued)


def kept(name: str) -> str | None:
    """Return the secret `name` if there is one."""
    value = store.read(_FILE).get(name)
    return None if value is None else str(value)
