"""Vault, entered with the token that the attacker's service account is given."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import urllib3
from hvac.exceptions import RateLimitExceeded  # type: ignore[import-untyped]

from local.attack.attempt import Attack, Refused, Target
from local.attack.tenants import AUDIENCE, SHARED, Tenant, issue, once_allowed, word_for
from local.servers import vault

_CANARY = "attack-canary"
_SHORT = "10s"
"""The life of a token that ought not to be."""


@dataclass(frozen=True)
class Session:
    """A token."""

    token: str
    _http: urllib3.PoolManager = field(default_factory=lambda: urllib3.PoolManager(retries=False))

    def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """The answer; Refused on 403, RuntimeError on any other failure.

        That there were too many requests says nothing of a right: it is asked again.
        """
        return once_allowed(lambda: self._call(method, path, body, headers))

    def _call(self, method: str, path: str, body: Any, headers: Mapping[str, str] | None) -> dict[str, Any]:
        answer = self._http.request(
            method,
            f"{vault.url()}/v1/{path}",
            body=None if body is None else json.dumps(body),
            headers={"X-Vault-Token": self.token, **(headers or {})},
            redirect=False,
            timeout=30,
        )
        text = answer.data.decode()
        # A word that does not match is a bad request to it.
        unmatched = answer.status == HTTPStatus.BAD_REQUEST and path.endswith("/login")
        if answer.status == HTTPStatus.FORBIDDEN or unmatched:
            raise Refused("; ".join(json.loads(text)["errors"]))
        if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
            raise RateLimitExceeded(text)
        if answer.status not in (HTTPStatus.OK, HTTPStatus.NO_CONTENT):
            raise RuntimeError(f"{answer.status} {text}")
        return dict(json.loads(text)) if text else {}


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What others may know about a tenant and aim at; and its settings as they are, to write them back."""

    id: str
    role: str
    method: str
    """Where it is let in."""
    word: str
    """The gateway's, for it; the gateway gives one to starters only."""
    account: str
    """The token for Vault of the account that its agents run under."""
    token: str
    accessor: str
    entity: str
    lease: str
    spare_accessor: str
    """Of a second token, with a lease of its own: both may be revoked."""
    spare_lease: str
    policy: Mapping[str, Any]
    logins: Mapping[str, Any]
    entry: Mapping[str, Any]
    """Its role at the method that lets it in."""


@dataclass(frozen=True, kw_only=True)
class _Request:
    """An attack by one request; the names in the path's braces are `_Facts`."""

    name: str
    method: str
    path: str
    body: Callable[[_Facts, _Facts], Any] = lambda _own, _victim: None
    headers: Mapping[str, str] | None = None
    by_owner: bool = True
    on_platform: bool = False
    spares: Callable[[Tenant, Tenant], bool] = lambda _attacker, _victim: False

    def attack(self, facts: Mapping[Tenant, _Facts]) -> Attack[Session]:
        """Make an attack of it."""

        def run(session: Session, own: Tenant, victim: Tenant) -> None:
            path = self.path.format(own=facts[own], victim=facts[victim])
            session.call(self.method, path, self.body(facts[own], facts[victim]), self.headers)

        return Attack(
            name=self.name,
            tried=f"{self.method} {self.path}",
            run=run,
            by_owner=self.by_owner,
            on_platform=self.on_platform,
            spares=self.spares,
        )


def _on_tenant(name: str, method: str, path: str, body: Any = None, **options: Any) -> _Request:
    """Something that the victim itself may do."""
    return _Request(name=name, method=method, path=path, body=_bodied(body), **options)


def _beyond_tenants(name: str, method: str, path: str, body: Any = None, **options: Any) -> _Request:
    """Something that the victim itself may not do either."""
    return _Request(name=name, method=method, path=path, body=_bodied(body), by_owner=False, **options)


def _on_platform(name: str, method: str, path: str, body: Any = None, **options: Any) -> _Request:
    return _Request(name=name, method=method, path=path, body=_bodied(body), on_platform=True, **options)


def _bodied(body: Any) -> Callable[[_Facts, _Facts], Any]:
    return body if callable(body) else lambda _own, _victim: body


_SECRET = f"tenants/data/{{victim.id}}/{_CANARY}"
_METADATA = f"tenants/metadata/{{victim.id}}/{_CANARY}"
_WRITTEN = {"data": {"text": "attack"}}

_REQUESTS = (
    # Secrets
    _on_tenant("read a secret", "GET", _SECRET),
    _on_tenant("read a secret's first version", "GET", f"{_SECRET}?version=1"),
    _on_tenant("read a secret, wrapped", "GET", _SECRET, headers={"X-Vault-Wrap-TTL": _SHORT}),
    _on_tenant("read a secret, its path spelt differently", "GET", f"tenants/data/{{victim.id}}%2F{_CANARY}"),
    _on_tenant("read the key to object storage", "GET", "tenants/data/{victim.id}/object-storage"),
    _on_tenant("read a secret's metadata", "GET", _METADATA),
    _on_tenant("list secrets", "LIST", "tenants/metadata/{victim.id}"),
    _beyond_tenants("read a secret's keys", "GET", f"tenants/subkeys/{{victim.id}}/{_CANARY}"),
    _beyond_tenants("list secrets with their metadata", "LIST", "tenants/detailed-metadata/{victim.id}"),
    _beyond_tenants("list secrets, all the way down", "SCAN", "tenants/metadata/{victim.id}"),
    _on_tenant("write a secret", "POST", _SECRET, _WRITTEN),
    _on_tenant(
        "patch a secret",
        "PATCH",
        _SECRET,
        _WRITTEN,
        headers={"Content-Type": "application/merge-patch+json"},
    ),
    _on_tenant("make a secret", "POST", f"tenants/data/{{victim.id}}/{_CANARY}-new", _WRITTEN),
    _on_tenant("delete a secret", "DELETE", _SECRET),
    _beyond_tenants(
        "bring back a deleted version",
        "POST",
        f"tenants/undelete/{{victim.id}}/{_CANARY}",
        {"versions": [1]},
    ),
    _beyond_tenants("delete a version", "POST", f"tenants/delete/{{victim.id}}/{_CANARY}", {"versions": [1]}),
    _beyond_tenants(
        "destroy a version", "POST", f"tenants/destroy/{{victim.id}}/{_CANARY}", {"versions": [1]}
    ),
    _beyond_tenants("limit a secret's versions", "POST", _METADATA, {"max_versions": 1}),
    _beyond_tenants("delete a secret with all its versions", "DELETE", _METADATA),
    _on_platform("list all tenants", "LIST", "tenants/metadata"),
    _on_platform("read the settings of all secrets", "GET", "tenants/config"),
    # Logins to PostgreSQL
    _on_tenant("get a database login", "GET", "database/creds/{victim.role}"),
    _beyond_tenants("read how a login is made", "GET", "database/roles/{victim.role}"),
    _beyond_tenants(
        "change how a login is made",
        "POST",
        "database/roles/{victim.role}",
        lambda _own, victim: victim.logins,
    ),
    _on_platform("list the roles for logins", "LIST", "database/roles"),
    _on_platform(
        "make a role for logins",
        "POST",
        "database/roles/tenant-attack",
        {"db_name": "agents", "creation_statements": ["SELECT 1"]},
    ),
    _on_platform("read how the database is entered", "GET", "database/config/agents"),
    # Leases
    _on_tenant("renew a lease", "PUT", "sys/leases/renew", lambda _own, victim: {"lease_id": victim.lease}),
    _beyond_tenants(
        "look at a lease", "PUT", "sys/leases/lookup", lambda _own, victim: {"lease_id": victim.lease}
    ),
    _beyond_tenants("list leases", "LIST", "sys/leases/lookup/database/creds/{victim.role}"),
    _beyond_tenants(
        "revoke a lease", "PUT", "sys/leases/revoke", lambda _own, victim: {"lease_id": victim.spare_lease}
    ),
    _beyond_tenants("revoke leases by their path", "PUT", "sys/leases/revoke-prefix/{victim.spare_lease}"),
    _beyond_tenants("force leases off by their path", "PUT", "sys/leases/revoke-force/{victim.spare_lease}"),
    # Tokens
    _on_tenant(
        "log in as the victim with the gateway's word for oneself",
        "POST",
        "auth/jwt/login",
        lambda own, victim: {"role": victim.role, "jwt": own.word},
        # Whoever has an account of its own is let in by no word.
        spares=lambda _attacker, victim: bool(victim.namespace),
    ),
    _on_tenant(
        "log in as the victim with one's own account",
        "POST",
        "auth/kubernetes/login",
        lambda own, victim: {"role": victim.role, "jwt": own.account},
        # And whoever has none, by no account.
        spares=lambda _attacker, victim: not victim.namespace,
    ),
    _beyond_tenants(
        "make a token with the victim's policy",
        "POST",
        "auth/token/create",
        lambda _own, victim: {"policies": [victim.role], "ttl": _SHORT},
    ),
    _beyond_tenants(
        "make an orphan with the victim's policy",
        "POST",
        "auth/token/create-orphan",
        lambda _own, victim: {"policies": [victim.role], "ttl": _SHORT},
    ),
    _on_platform("make a root token", "POST", "auth/token/create", {"policies": ["root"], "ttl": _SHORT}),
    _on_platform("make a token like one's own", "POST", "auth/token/create", {"ttl": _SHORT}),
    _on_platform("list tokens", "LIST", "auth/token/accessors"),
    _beyond_tenants(
        "look at a token",
        "POST",
        "auth/token/lookup-accessor",
        lambda _own, victim: {"accessor": victim.accessor},
    ),
    _beyond_tenants(
        "renew a token",
        "POST",
        "auth/token/renew-accessor",
        lambda _own, victim: {"accessor": victim.accessor},
    ),
    _beyond_tenants(
        "revoke a token",
        "POST",
        "auth/token/revoke-accessor",
        lambda _own, victim: {"accessor": victim.spare_accessor},
    ),
    # Policies and ways in
    _beyond_tenants("read a policy", "GET", "sys/policies/acl/{victim.role}"),
    _beyond_tenants(
        "edit the victim's policy",
        "PUT",
        "sys/policies/acl/{victim.role}",
        lambda _own, victim: victim.policy,
    ),
    _on_platform(
        "edit one's own policy", "PUT", "sys/policies/acl/{own.role}", lambda own, _victim: own.policy
    ),
    _on_platform(
        "make a policy",
        "PUT",
        f"sys/policies/acl/{_CANARY}",
        {"policy": 'path "*" { capabilities = ["list"] }'},
    ),
    _on_platform("list policies", "LIST", "sys/policies/acl"),
    _beyond_tenants("read who may log in", "GET", "auth/{victim.method}/role/{victim.role}"),
    _beyond_tenants(
        "edit who may log in as the victim",
        "POST",
        "auth/{victim.method}/role/{victim.role}",
        lambda _own, victim: victim.entry,
    ),
    _on_platform(
        "edit with what policies one logs in",
        "POST",
        "auth/{own.method}/role/{own.role}",
        lambda own, _victim: own.entry,
    ),
    _on_platform("read how accounts are verified", "GET", "auth/kubernetes/config"),
    _on_platform("read whose word is taken", "GET", "auth/jwt/config"),
    # Identity
    _beyond_tenants("read an entity", "GET", "identity/entity/id/{victim.entity}"),
    _beyond_tenants("edit an entity", "POST", "identity/entity/id/{victim.entity}", {}),
    _beyond_tenants(
        "join a group with the victim's policy",
        "POST",
        "identity/group",
        lambda own, victim: {"name": _CANARY, "policies": [victim.role], "member_entity_ids": [own.entity]},
    ),
    _on_platform("list entities", "LIST", "identity/entity/id"),
    # The server itself
    _on_platform("use a cubbyhole", "POST", f"cubbyhole/{_CANARY}", {"text": "attack"}),
    _on_platform("wrap anything", "PUT", "sys/wrapping/wrap", {}, headers={"X-Vault-Wrap-TTL": _SHORT}),
    _on_platform("list mounts", "GET", "sys/mounts"),
    _on_platform("mount an engine", "POST", f"sys/mounts/{_CANARY}-{{own.id}}", {"type": "kv"}),
    _on_platform("unmount an engine", "DELETE", f"sys/mounts/{_CANARY}-{{own.id}}"),
    _on_platform("list auth methods", "GET", "sys/auth"),
    _on_platform("list audit devices", "GET", "sys/audit"),
    _on_platform("read the seal's configuration", "GET", "sys/config/state/sanitized"),
    _on_platform("list the cluster's servers", "GET", "sys/storage/raft/configuration"),
)

_POWERS = {
    "auth/kubernetes/config": "change how accounts are verified",
    "auth/jwt/config": "change whose word is taken",
    "auth/kubernetes/role/attack": "let an account in",
    "auth/jwt/role/attack": "let a word in",
    "database/config/agents": "change how the database is entered",
    "database/rotate-root/agents": "change the issuer's password",
    "sys/audit/attack": "change the audit devices",
    "sys/auth/attack": "change the auth methods",
    "sys/plugins/catalog/secret/attack": "register a plugin",
    "sys/raw/core": "read the storage past every policy",
    "sys/remount": "move a mount",
    "sys/rotate": "rotate the encryption key",
    "sys/seal": "seal the server",
    "sys/step-down": "make the leader step down",
    "sys/storage/raft/snapshot": "take or restore a snapshot of everything",
    "sys/mounts/tenants": "unmount everybody's secrets",
}
"""What would break the platform if it were granted: the server is asked whether it would be."""


def _power(path: str, name: str) -> Attack[Session]:
    def run(session: Session, _own: Tenant, _victim: Tenant) -> None:
        operator = Session(vault.root_token())
        allowed = operator.call("POST", "sys/capabilities", {"token": session.token, "paths": [path]})
        if allowed["data"][path] == ["deny"]:
            raise Refused("the token has no capability there")

    return Attack(name=name, tried=f"the token's capabilities on {path}", run=run, on_platform=True)


def _by_the_shared_account(operator: Session) -> Attack[Session]:
    """Whoever takes the shared runtime over has its account, which must be let in as nobody.

    That the attempt could succeed shows a role that is there for it alone.
    """

    def run(session: Session, _own: Tenant, _victim: Tenant) -> None:
        listed = operator.call("LIST", "auth/kubernetes/role")["data"]["keys"]
        token = issue(SHARED, [AUDIENCE])
        for role in (name for name in listed if (name == _CANARY) == (session is operator)):
            with suppress(Refused):
                session.call("POST", "auth/kubernetes/login", {"role": role, "jwt": token})
                return
        raise Refused("no role lets it in")

    return Attack(
        name="log in as anybody with the shared runtime's account",
        tried="POST auth/kubernetes/login for each role",
        run=run,
        on_platform=True,
    )


@contextmanager
def entered(tenants: Sequence[Tenant]) -> Iterator[Target[Session]]:
    """Plant a canary among every tenant's secrets, have each tenant's token attack, and remove all of it."""
    operator = Session(vault.root_token())
    sessions = {tenant: Session(tenant.vault.token) for tenant in tenants}
    with ExitStack() as stack:
        for path in (
            *(f"tenants/metadata/{tenant.id}/{_CANARY}{end}" for tenant in tenants for end in ("", "-new")),
            f"sys/policies/acl/{_CANARY}",
            *(f"sys/mounts/{_CANARY}-{tenant.id}" for tenant in tenants),
            f"identity/group/name/{_CANARY}",
            "database/roles/tenant-attack",
            f"cubbyhole/{_CANARY}",
            f"auth/kubernetes/role/{_CANARY}",
        ):
            stack.callback(operator.call, "DELETE", path)
        bound = {
            "bound_service_account_names": [SHARED.name],
            "bound_service_account_namespaces": [SHARED.namespace],
        }
        operator.call("POST", f"auth/kubernetes/role/{_CANARY}", {**bound, "token_ttl": _SHORT})
        for tenant, session in sessions.items():
            session.call("POST", f"tenants/data/{tenant.id}/{_CANARY}", {"data": {"text": "canary"}})
        facts = {tenant: _facts(tenant, session, operator, stack) for tenant, session in sessions.items()}
        yield Target(
            server="Vault",
            sessions=sessions,
            victims=tenants,
            administrator=operator,
            attacks=[
                *(request.attack(facts) for request in _REQUESTS),
                *(_power(path, name) for path, name in _POWERS.items()),
                _by_the_shared_account(operator),
            ],
        )


def _facts(tenant: Tenant, session: Session, operator: Session, stack: ExitStack) -> _Facts:
    own = session.call("GET", "auth/token/lookup-self")["data"]
    login = {"role": tenant.role, "jwt": tenant.credential}
    second = Session(operator.call("POST", f"auth/{tenant.method}/login", login)["auth"]["client_token"])
    stack.callback(operator.call, "POST", "auth/token/revoke", {"token": second.token})
    logins = f"database/creds/{tenant.role}"
    policy = operator.call("GET", f"sys/policies/acl/{tenant.role}")["data"]
    return _Facts(
        id=tenant.id,
        role=tenant.role,
        method=tenant.method,
        word=word_for(tenant.id),
        account=tenant.account_token,
        token=session.token,
        accessor=own["accessor"],
        entity=own["entity_id"],
        lease=session.call("GET", logins)["lease_id"],
        spare_accessor=second.call("GET", "auth/token/lookup-self")["data"]["accessor"],
        spare_lease=second.call("GET", logins)["lease_id"],
        policy={"policy": policy["policy"]},
        logins=operator.call("GET", f"database/roles/{tenant.role}")["data"],
        entry=operator.call("GET", f"auth/{tenant.method}/role/{tenant.role}")["data"],
    )
