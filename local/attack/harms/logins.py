"""Logins to PostgreSQL that Vault issues for an attack, and the administrator's."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hvac.exceptions import VaultError  # type: ignore[import-untyped]

from local import credentials
from local.attack.postgres import connect
from local.attack.tenants import Tenant, once_allowed, operator
from local.servers import postgres

Administrator = bool
"""True: with the administrator's rights. False: with logins that Vault issues to the tenant."""


@dataclass(frozen=True, kw_only=True)
class Login:
    """A login that Vault has issued to be revoked."""

    database: str
    name: str
    password: str
    lease: str


@contextmanager
def issued(tenant: Tenant, count: int) -> Iterator[list[Login]]:
    """Have Vault issue a login, and further ones up to `count` if it will; revoke them at the end.

    Raises:
        VaultError: it issues none.
    """

    def generate() -> dict[str, Any]:
        return dict(tenant.vault.secrets.database.generate_credentials(tenant.role))

    logins: list[Login] = []
    try:
        for _ in range(count):
            try:
                made = generate() if logins else once_allowed(generate)
            except VaultError:
                if not logins:
                    raise
                break
            name, password = made["data"]["username"], made["data"]["password"]
            logins.append(
                Login(database=tenant.database, name=name, password=password, lease=made["lease_id"])
            )
        yield logins
    finally:
        for login in logins:
            end(login)


@contextmanager
def user(administrator: Administrator, tenant: Tenant) -> Iterator[tuple[str, str]]:
    """Name and password of the administrator, or of a login that Vault issues to the tenant meanwhile."""
    if administrator:
        yield superuser()
        return
    with issued(tenant, 1) as (login,):
        yield login.name, login.password


def end(login: Login) -> None:
    """End the lease; nobody may get in with the login any more, whether or not it is dropped."""
    operator().write_data("sys/leases/revoke", data={"lease_id": login.lease, "sync": True})
    with connect(login.database, *superuser()) as connection:
        found = "SELECT FROM pg_roles WHERE rolname = %s AND rolcanlogin"
        if connection.execute(found, [login.name]).rowcount:
            raise RuntimeError("the lease has ended and the login still lets in")


def revoke(login: Login) -> None:
    """End the lease, as it ends by itself after its hour or with the tenant; the login must be gone."""
    if exists(login):
        operator().write_data("sys/leases/revoke", data={"lease_id": login.lease, "sync": True})
    if exists(login):
        raise RuntimeError("the lease has ended and the login is still there")


def exists(login: Login) -> bool:
    """Return whether PostgreSQL has the login, even if it can no longer log in."""
    with connect(login.database, *superuser()) as connection:
        return bool(connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [login.name]).rowcount)


def superuser() -> tuple[str, str]:
    """Name and password of PostgreSQL's administrator."""
    return postgres.ADMIN, credentials.secret("postgres")
