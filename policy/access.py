"""Access: nobody has more rights than the work needs, in Kubernetes, Vault, PostgreSQL and object storage."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from policy.rules import Selection, Severity, resources, rule
from policy.subjects import Resource

_RBAC = "https://kubernetes.io/docs/concepts/security/rbac-good-practices/"
_ROLES = (
    "kubernetes:rbac.authorization.k8s.io/v1:Role",
    "kubernetes:rbac.authorization.k8s.io/v1:ClusterRole",
)
_BINDINGS = (
    "kubernetes:rbac.authorization.k8s.io/v1:RoleBinding",
    "kubernetes:rbac.authorization.k8s.io/v1:ClusterRoleBinding",
)
_KUBECONFIG = "exoscale:index/sksKubeconfig:SksKubeconfig"
_ANYBODY = frozenset(
    ("system:anonymous", "system:unauthenticated", "system:authenticated", "system:serviceaccounts")
)

_VAULT_POLICIES = "https://openbao.org/docs/concepts/policies/"
_VAULT_POLICY = "vault:index/policy:Policy"
_SECRETS, _LOGINS = "tenants", "database"
"""Vault's mounts that tenants have a part of."""
_LONGEST = 15 * 60
"""In seconds: a login by the gateway's word."""
_OWN_TOKEN = frozenset(f"auth/token/{what}-self" for what in ("lookup", "renew", "revoke"))
_RENEW = "sys/leases/renew"

_ISSUER = "vault"
"""The PostgreSQL role with which Vault makes tenants' logins: it logs in and makes roles, no more."""
_ATTRIBUTES = {
    "superuser": "is a superuser",
    "createDatabase": "may create databases",
    "createRole": "may create roles",
    "login": "can log in by itself",
    "replication": "may copy the whole server",
    "bypassRowLevelSecurity": "sees past row-level security",
}
_OF_PLATFORM = {
    _ISSUER: frozenset(("createRole", "login")),
    "limits": frozenset(("login",)),
    "monitoring": frozenset(("login",)),
    "accounting": frozenset(("login",)),
}
"""The rights of the platform's own roles. The last two may call one function each: the one holds tenants to
their limits, the other tells what they have."""
_TOO_MUCH = re.compile(r"\b(SUPERUSER|CREATEDB|CREATEROLE|REPLICATION|BYPASSRLS)\b")
_TO_PUBLIC = re.compile(r"\bTO\s+PUBLIC\b", re.IGNORECASE)
_ATTRIBUTE_DOCS = "https://www.postgresql.org/docs/current/role-attributes.html"


@dataclass(frozen=True)
class Right:
    """One rule of a Role or ClusterRole."""

    role: Resource
    rule: Mapping[str, Any]

    def names(self, field: str) -> list[str]:
        """What stands in one of its lists."""
        listed: list[str] = self.rule.get(field) or []
        return listed


def _rights(role: Resource) -> Iterator[Right]:
    for written in role.inputs.get("rules") or ():
        yield Right(role, written)


rights = Selection(frozenset(_ROLES).__contains__, _rights)
"""Each right that a role in Kubernetes gives."""


@rule(
    id="access-no-wildcard",
    severity=Severity.CRITICAL,
    on=rights,
    reason="it gives rights to what nobody thought of, also to what is installed next year",
    remedy="list verbs, resources and API groups",
    source=_RBAC,
)
def no_wildcard(right: Right) -> Iterator[str]:
    """No right is to everything of a kind."""
    for field in ("verbs", "resources", "apiGroups", "nonResourceURLs"):
        if "*" in right.names(field):
            yield f"a rule has {field}: *"


@rule(
    id="access-no-escalation",
    severity=Severity.CRITICAL,
    on=rights,
    reason="whoever has it gives himself any other right",
    remedy="leave the verb out, and have this program declare roles and bindings",
    source=_RBAC,
)
def no_escalation(right: Right) -> Iterator[str]:
    """Nobody may widen roles, hand out more than he has, act as somebody else or make tokens for others."""
    verbs = right.names("verbs")
    for verb in ("escalate", "bind", "impersonate"):
        if verb in verbs:
            yield f"a rule lets its holder {verb}"
    if "create" in verbs and "serviceaccounts/token" in right.names("resources"):
        yield "a rule lets its holder make tokens of service accounts"


@rule(
    id="access-no-secrets-everywhere",
    severity=Severity.CRITICAL,
    on=Selection(frozenset((_ROLES[1],)).__contains__, _rights),
    reason="it reads every tenant's secrets in the cluster, disk keys among them",
    remedy="use a Role in the one namespace, or resourceNames",
    source=_RBAC,
)
def no_secrets_everywhere(right: Right) -> Iterator[str]:
    """Nobody reads secrets in all namespaces at once."""
    reads = [verb for verb in right.names("verbs") if verb in ("get", "list", "watch")]
    if reads and "secrets" in right.names("resources") and not right.names("resourceNames"):
        yield f"a rule lets its holder {reads[0]} secrets in every namespace"


@rule(
    id="access-no-cluster-admin",
    severity=Severity.CRITICAL,
    on=resources(*_BINDINGS, _KUBECONFIG),
    reason="whoever gets hold of it owns the cluster and every tenant on it",
    remedy="bind a role that lists what the work needs",
    source=_RBAC,
)
def no_cluster_admin(resource: Resource) -> Iterator[str]:
    """Nobody is the cluster's administrator, but for who is named."""
    if resource.type == _KUBECONFIG:
        if "system:masters" in (resource.inputs.get("groups") or ()):
            yield "it is a way into the cluster as system:masters"
        return
    if resource.inputs["roleRef"].get("name") == "cluster-admin":
        yield "it binds cluster-admin"
    for subject in resource.inputs.get("subjects") or ():
        if subject.get("name") == "system:masters":
            yield "it binds system:masters"


@rule(
    id="access-bound-to-somebody",
    severity=Severity.CRITICAL,
    on=resources(*_BINDINGS),
    reason="everybody has the role, whoever he is",
    remedy="bind one service account, or a group that somebody administers",
    source=_RBAC,
)
def bound_to_somebody(binding: Resource) -> Iterator[str]:
    """No role is bound to everybody."""
    for subject in binding.inputs.get("subjects") or ():
        if subject.get("name") in _ANYBODY:
            yield f"it is bound to {subject['name']}"


@dataclass(frozen=True)
class Grant:
    """One path of a Vault policy."""

    policy: Resource
    path: str
    capabilities: tuple[str, ...]
    body: str
    """All that is written of it."""


def _grants(policy: Resource) -> Iterator[Grant]:
    text = policy.inputs.get("policy") or ""
    if text.lstrip().startswith("{"):
        for path, written in (json.loads(text).get("path") or {}).items():
            yield Grant(policy, path, tuple(written.get("capabilities") or ()), json.dumps(written))
        return
    for start in re.finditer(r'\bpath\s+"([^"]*)"\s*\{', text):
        body = _braced(text[start.end() :])
        listed = re.search(r"\bcapabilities\s*=\s*\[([^\]]*)\]", body)
        capabilities = re.findall(r'"([^"]*)"', listed[1] if listed else "")
        yield Grant(policy, start[1], tuple(capabilities), body)


def _braced(text: str) -> str:
    """As far as the brace that closes the one before `text`."""
    depth = 1
    for position, letter in enumerate(text):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if depth == 0:
            return text[:position]
    return text


grants = Selection(frozenset((_VAULT_POLICY,)).__contains__, _grants)
"""Each path that a Vault policy opens."""


@rule(
    id="access-vault-own-paths",
    severity=Severity.CRITICAL,
    on=grants,
    reason="a tenant would get at what is another's, or at Vault itself",
    remedy=f"keep to {_SECRETS}/data|metadata/ID/…, {_LOGINS}/creds/tenant-ID and the token's own affairs",
    source=_VAULT_POLICIES,
)
def vault_own_paths(grant: Grant) -> Iterator[str]:
    """A tenant's policy opens the tenant's own paths and no others."""
    tenant = grant.policy.tenant
    if tenant is None or grant.path in _OWN_TOKEN:
        return
    login = f"{_LOGINS}/creds/tenant-{tenant}"
    if grant.path == _RENEW:
        listed = re.search(r'"lease_id"\s*[=:]\s*\[([^\]]*)\]', grant.body)
        leases = re.findall(r'"([^"]*)"', listed[1] if listed else "")
        if not leases or not all(lease.startswith(f"{login}/") for lease in leases):
            yield f"{grant.path} renews leases of others, too"
        return
    versions = ("data", "metadata", "delete", "undelete", "destroy", "subkeys")
    own = (*(f"{_SECRETS}/{kind}/{tenant}" for kind in versions), login)
    if not any(grant.path == path or grant.path.startswith(f"{path}/") for path in own):
        yield f"{grant.path} is not the tenant's own"


@rule(
    id="access-vault-no-root",
    severity=Severity.CRITICAL,
    on=grants,
    reason="whoever has it reads every secret and changes every policy",
    remedy="list the paths and what may be done there",
    source=_VAULT_POLICIES,
)
def vault_no_root(grant: Grant) -> Iterator[str]:
    """No policy opens everything, or what only root may."""
    for capability in ("sudo", "root"):
        if capability in grant.capabilities or re.search(rf'\bpolicy\s*=\s*"{capability}"', grant.body):
            yield f"{grant.path} has the capability {capability}"
    if not grant.path.strip("*+/"):
        yield f"{grant.path} is every path"


@rule(
    id="access-vault-one-account",
    severity=Severity.CRITICAL,
    on=resources("vault:kubernetes/authBackendRole:AuthBackendRole"),
    reason="another account of the cluster would log in as this tenant",
    remedy="bind one service account in the tenant's own namespace, by name, to the tenant's own policy",
    source="https://openbao.org/docs/auth/kubernetes/",
)
def vault_one_account(login: Resource) -> Iterator[str]:
    """One service account in the tenant's own namespace logs in, and gets that tenant's policy alone."""
    for field, what in (
        ("boundServiceAccountNames", "accounts"),
        ("boundServiceAccountNamespaces", "namespaces"),
    ):
        bound = login.inputs.get(field) or []
        if len(bound) != 1 or "*" in bound[0]:
            yield f"it is bound to the {what} {', '.join(bound) or 'of nobody'}"
        elif login.tenant and what == "namespaces" and bound[0] != f"tenant-{login.tenant}":
            yield f"it is bound to the namespace {bound[0]}, which is not the tenant's own"
    if login.inputs.get("boundServiceAccountNamespaceSelector"):
        yield "it is bound to namespaces by their labels"
    policies = login.inputs.get("tokenPolicies") or []
    if login.tenant and policies != [f"tenant-{login.tenant}"]:
        yield f"it gets the policies {', '.join(policies) or 'that are default'}"


@rule(
    id="access-vault-own-word",
    severity=Severity.CRITICAL,
    on=resources("vault:jwt/authBackendRole:AuthBackendRole"),
    reason="whoever has the gateway's word for another tenant would log in as this one, or stay logged in",
    remedy="bind audience and claim `tenant`, as a string, to its own policy, for 15 minutes at most",
    source="https://openbao.org/docs/auth/jwt/",
)
def vault_own_word(login: Resource) -> Iterator[str]:
    """The gateway's word for one tenant lets in as that tenant alone, for Vault alone, and not for long."""
    inputs = login.inputs
    if inputs.get("roleType") != "jwt":
        yield "it lets in by a browser, which no agent has"
    if inputs.get("boundAudiences") != ["vault"]:
        yield f"it takes a word for {', '.join(inputs.get('boundAudiences') or ['anybody'])}"
    claims = inputs.get("boundClaims") or {}
    if login.tenant and claims.get("tenant") != login.tenant:
        yield f"it takes a word for the tenant {claims.get('tenant') or 'of anybody'}"
    if inputs.get("boundClaimsType") != "string":
        yield "its claims may be patterns"
    if inputs.get("userClaim") != "tenant":
        yield "its identity is not the tenant's"
    policies = inputs.get("tokenPolicies") or []
    if login.tenant and policies != [f"tenant-{login.tenant}"]:
        yield f"it gets the policies {', '.join(policies) or 'that are default'}"
    if not 0 < (inputs.get("tokenExplicitMaxTtl") or 0) <= _LONGEST:
        yield "its logins last longer than 15 minutes"


@rule(
    id="access-vault-own-keys",
    severity=Severity.CRITICAL,
    on=resources("vault:jwt/authBackend:AuthBackend"),
    reason="whoever has that key, or answers there, would log in as any tenant of the shared runtime",
    remedy="give jwtValidationPubkeys the gateway's two keys, jwtSupportedAlgs EdDSA, and boundIssuer",
    source="https://openbao.org/docs/auth/jwt/",
)
def vault_own_keys(login: Resource) -> Iterator[str]:
    """Vault takes the word of the gateway's own keys and of nobody else."""
    inputs = login.inputs
    for field in ("jwksUrl", "jwksPairs", "oidcDiscoveryUrl"):
        if inputs.get(field):
            yield f"it asks another server for keys ({field})"
    if len(inputs.get("jwtValidationPubkeys") or []) > 2:
        yield "it takes the word of more than two keys"
    if inputs.get("jwtSupportedAlgs") != ["EdDSA"]:
        yield "it takes other signatures than EdDSA"
    if not inputs.get("boundIssuer"):
        yield "it takes a word of any issuer"


@rule(
    id="access-role-plain",
    severity=Severity.CRITICAL,
    on=resources("postgresql:index/role:Role"),
    reason="a tenant's statements run with that right, on every tenant's data",
    remedy="leave the attribute out; logins are Vault's to make",
    source=_ATTRIBUTE_DOCS,
)
def role_plain(role: Resource) -> Iterator[str]:
    """No role has an attribute that reaches beyond its own, but what the platform's own two need."""
    name = str(role.inputs.get("name"))
    needed = _OF_PLATFORM.get(name, frozenset()) if role.tenant is None else frozenset()
    for attribute, what in _ATTRIBUTES.items():
        if role.inputs.get(attribute) and attribute not in needed:
            yield f"role {name} {what}"


@rule(
    id="access-no-server-roles",
    severity=Severity.CRITICAL,
    on=resources("postgresql:index/role:Role", "postgresql:index/grantRole:GrantRole"),
    reason="PostgreSQL's own roles reach every schema, the server's files or its programs",
    remedy="grant the tenant's role what it needs in its schema",
    source="https://www.postgresql.org/docs/current/predefined-roles.html",
)
def no_server_roles(resource: Resource) -> Iterator[str]:
    """Nobody is a member of one of PostgreSQL's own roles."""
    granted = resource.inputs.get("roles") or [resource.inputs.get("grantRole") or ""]
    for name in granted:
        if name.startswith("pg_"):
            yield f"{name} is granted"


@rule(
    id="access-schema-owned",
    severity=Severity.CRITICAL,
    on=resources("postgresql:index/schema:Schema"),
    reason="its owner reads, changes and drops everything in it",
    remedy="let the tenant's own role own it",
    source="https://www.postgresql.org/docs/current/ddl-schemas.html",
)
def schema_owned(schema: Resource) -> Iterator[str]:
    """A tenant's schema belongs to the tenant's role."""
    owner = schema.inputs.get("owner")
    if schema.tenant and owner != f"tenant_{schema.tenant}":
        yield f"schema {schema.inputs.get('name')} belongs to {owner or 'whoever makes it'}"


@rule(
    id="access-no-public",
    severity=Severity.CRITICAL,
    on=resources("postgresql:index/grant:Grant", "postgresql:index/defaultPrivileges:DefaultPrivileges"),
    reason="every role has what PUBLIC has, every tenant's included",
    remedy="grant it to the tenant's role; for PUBLIC write privileges: []",
    source="https://www.postgresql.org/docs/current/ddl-priv.html",
)
def no_public(grant: Resource) -> Iterator[str]:
    """Nothing is granted to everybody."""
    if grant.inputs["role"].lower() == "public" and grant.inputs.get("privileges"):
        yield f"PUBLIC gets {', '.join(grant.inputs['privileges'])} on {grant.inputs.get('objectType')}"


@rule(
    id="access-logins-as-tenant",
    severity=Severity.CRITICAL,
    on=resources("vault:database/secretBackendRole:SecretBackendRole"),
    reason="each login that Vault makes for the tenant would have rights beyond the tenant's",
    remedy="make it a member of the tenant's role and of no other, without attributes",
    source=_ATTRIBUTE_DOCS,
)
def logins_as_tenant(logins: Resource) -> Iterator[str]:
    """A login that Vault makes is the tenant's role and nothing more."""
    statements = " ".join(logins.inputs.get("creationStatements") or ())
    for attribute in sorted(set(_TOO_MUCH.findall(statements))):
        yield f"logins are {attribute}"
    if _TO_PUBLIC.search(statements):
        yield "making a login grants to PUBLIC"
    roles = re.findall(r'IN ROLE\s+"?([\w-]+)"?', statements)
    if logins.tenant and roles != [f"tenant_{logins.tenant}"]:
        yield f"logins are members of {', '.join(roles) or 'no role'}"


@rule(
    id="access-keys-confined",
    severity=Severity.CRITICAL,
    on=resources("exoscale:index/iamRole:IamRole"),
    reason="its key opens other tenants' objects, or the account itself",
    remedy="deny by default, and allow `… && parameters.bucket == 'BUCKET'`; a tenant's, below its prefix",
    source="https://community.exoscale.com/product/iam/iam/how-to/policy-guide/",
)
def keys_confined(role: Resource) -> Iterator[str]:
    """A key opens one bucket and nothing else, a tenant's its own prefix in it."""
    policy = role.inputs.get("policy") or {}
    if policy.get("defaultServiceStrategy") != "deny":
        yield "what no rule names is allowed"
    services = policy.get("services") or {}
    for name in services:
        if name != "sos":
            yield f"it reaches the service {name}"
        elif services[name].get("type") != "rules":
            yield f"it may do everything in {name}"
    for written in (services.get("sos") or {}).get("rules") or ():
        if written.get("action") == "allow":
            yield from _unconfined(written.get("expression") or "", role.tenant)


def _unconfined(expression: str, tenant: str | None) -> Iterator[str]:
    """What is missing among the conditions that all have to hold."""
    conditions = expression.split(" && ")
    if "||" in expression:
        yield f"either of several conditions is enough: {expression}"
    if not any(re.fullmatch(r"parameters\.bucket == '[^']+'", each) for each in conditions):
        yield f"it is confined to no bucket: {expression}"
    own = {f"parameters.{what}.startsWith('tenant_{tenant}/')" for what in ("prefix", "key")}
    if tenant and not own & set(conditions):
        yield f"it is not confined to the tenant's prefix: {expression}"
