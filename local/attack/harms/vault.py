"""Vault: secrets whose names a URL says otherwise than they are, and which are to go with their tenant."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from infra.tenants import holdings
from infra.tenants.clients import VaultClient
from local.attack.harm import Harm, Harmed
from local.attack.tenants import Tenant
from local.attack.vault import Session
from local.servers import vault

_SECRETS = "tenants"


@contextmanager
def _written(name: str, session: Session, own: Tenant, _victim: Tenant) -> Iterator[str]:
    """Write a secret of that name into a folder that is thrown away; give the folder's path."""
    folder = f"{own.id}/attack-{uuid4().hex}/"
    session.call("POST", f"{_SECRETS}/data/{folder}{quote(name, safe='')}", {"data": {"a": "b"}})
    try:
        yield folder
    finally:
        _delete(folder)


def _delete(folder: str) -> None:
    """Do what an update does with the secrets of a tenant that leaves."""
    operator = VaultClient({"address": vault.url(), "token": vault.root_token()})
    holdings.delete_secrets(operator, _SECRETS, folder)


def _delete_as_listed(folder: str) -> None:
    """Delete each secret under the name that the listing shows."""
    operator = Session(vault.root_token())
    for name in operator.call("LIST", f"{_SECRETS}/metadata/{folder}")["data"]["keys"]:
        operator.call("DELETE", f"{_SECRETS}/metadata/{folder}{name}")
    if VaultClient({"address": vault.url(), "token": operator.token}).secrets(_SECRETS, folder):
        raise RuntimeError("something is left")


_HARMS = tuple(
    Harm(
        kind="cannot be removed",
        name=f"write a secret whose name has {what} in it",
        tried=f"POST {_SECRETS}/data/OWN/{quote(name, safe='')}",
        done=partial(_written, name),
        withstood=_delete,
        unguarded=_delete_as_listed,
    )
    for what, name in (("a question mark", "a?b"), ("a hash", "a#b"), ("a percent sign", "a%41b"))
)


@contextmanager
def entered(tenants: Sequence[Tenant]) -> Iterator[Harmed[Any]]:
    """Have every tenant do harm with its token; each undoes its own."""
    yield Harmed(
        server="Vault",
        sessions={tenant: Session(tenant.vault.token) for tenant in tenants},
        administrator=Session(vault.root_token()),
        harms=_HARMS,
    )
