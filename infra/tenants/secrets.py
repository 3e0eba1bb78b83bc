"""A tenant's part of Vault: its secrets, its logins to PostgreSQL, and how its agents get in."""

import pulumi
import pulumi_vault as vault

from infra.platform.assertions import CLAIM, SKEW
from infra.platform.control_schema import TENANTS
from infra.platform.vault import AUDIENCE, Vault
from infra.tenants.database import Schema
from infra.tenants.holdings import Holdings
from infra.tenants.lifecycle import protected
from infra.tenants.roster import TenantEntry
from infra.tenants.storage import TenantStorage
from infra.tenants.tiers import Logins

SERVICE_ACCOUNT = "agent"
OBJECT_STORAGE = "object-storage"
"""The secret with the key to the tenant's objects: ours to write, the tenant's to read."""
GATEWAY = "gateway"
"""The secret with the key that signs the tenant's tokens for the gateway, as `private_key`: likewise."""
VPN = "vpn"
"""The secret with the private key of the VPN's server, as `private_key`: likewise."""
OURS = (OBJECT_STORAGE, GATEWAY, VPN)

_HOUR = 60 * 60
_QUARTER = 15 * 60
"""Of an hour, for what is let in for one request: a longer run is let in again."""
_LOGINS_A_MINUTE = 30
"""The logins per interval that Vault makes for a tenant at the request of one address."""

_POLICY = """\
path "{secrets}/data/{id}/*" {{
  capabilities = ["create", "read", "update", "patch", "delete"]
}}
path "{secrets}/data/{id}/{object_storage}" {{
  capabilities = ["read"]
}}
path "{secrets}/data/{id}/{gateway}" {{
  capabilities = ["read"]
}}
path "{secrets}/data/{id}/{vpn}" {{
  capabilities = ["read"]
}}
path "{secrets}/metadata/{id}" {{
  capabilities = ["list"]
}}
path "{secrets}/metadata/{id}/*" {{
  capabilities = ["read", "list"]
}}
path "{database}/creds/{name}" {{
  capabilities = ["read"]
}}
path "sys/leases/renew" {{
  capabilities = ["update"]
  allowed_parameters = {{
    "lease_id"  = ["{database}/creds/{name}/*"]
    "increment" = []
  }}
}}
path "auth/token/lookup-self" {{
  capabilities = ["read"]
}}
path "auth/token/renew-self" {{
  capabilities = ["update"]
}}
path "auth/token/revoke-self" {{
  capabilities = ["update"]
}}
"""

_RETIRE = """\
DO $$
DECLARE
  login name;
BEGIN
  -- Whoever came in while a login was retired and that was not yet committed.
  PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
  WHERE usesysid IN (SELECT member FROM pg_auth_members JOIN pg_roles ON member = pg_roles.oid
    WHERE roleid = '{role}'::regrole AND grantor = current_user::regrole AND NOT rolcanlogin);
  FOR login IN
    SELECT rolname FROM pg_roles JOIN pg_auth_members ON member = pg_roles.oid
    WHERE roleid = '{role}'::regrole AND grantor = current_user::regrole AND rolcanlogin
      AND rolname <> '{{{{name}}}}'
    ORDER BY rolvaliduntil DESC, pg_roles.oid DESC OFFSET {others}
  LOOP
    -- Its creator may administer it, and has to be told to act for it before it can end its sessions.
    EXECUTE format('GRANT %I TO CURRENT_USER WITH INHERIT TRUE', login);
    -- Those first: one that changes its own password holds its role for as long as it likes.
    PERFORM pg_stat_clear_snapshot();
    PERFORM pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE usename = login;
    EXECUTE format('ALTER ROLE %I NOLOGIN', login);
  END LOOP;
END
$$"""
"""Retires all but the newest of a tenant's logins, which Vault still revokes in their time."""
_CREATE = [
    # What the tenant's own sessions hold fails this request, and keeps nobody else's waiting.
    "SET LOCAL lock_timeout = '2s'",
    # A member that inherits nothing: whatever it does, it does as the tenant, whose the result then is. Until
    # the end of the transaction its role is locked, so a tenant's requests come one after the other.
    'CREATE ROLE "{{{{name}}}}" LOGIN NOINHERIT CONNECTION LIMIT {connections}'
    " PASSWORD '{{{{password}}}}' VALID UNTIL '{{{{expiration}}}}' IN ROLE \"{role}\"",
    "ALTER ROLE \"{{{{name}}}}\" SET role = '{role}'",
    "ALTER ROLE \"{{{{name}}}}\" SET search_path = '{role}'",
    _RETIRE,
]
_LET_IN = ['GRANT "{members}" TO "{{{{name}}}}" WITH INHERIT TRUE, SET FALSE']
"""Into the database that all share, by membership: grants to each login would get in each other's way."""
_LET_IN_OWN = ['GRANT CONNECT ON DATABASE "{role}" TO "{{{{name}}}}"']
"""Into a database of the tenant's own, which has the tenant's name."""
_SHUT_OUT_OWN = ["SELECT agent_platform.shut_out('{{name}}')"]
"""As Vault's own role: what it granted, nobody else can take back."""
_REVOKE = ["SELECT agent_platform.end_login('{{name}}')"]
"""As the administrator (control_schema.sql): Vault cannot take back what a tenant granted to a login."""


def creation_statements(role: str, logins: Logins, *, own_database: bool = False) -> list[str]:
    """The statements by which Vault makes a login that acts as `role`, within the tenant's limits
    (docs/decisions/0065)."""
    limits = {"connections": logins.connections, "others": logins.at_once - 1}
    statements = [*_CREATE, *(_LET_IN_OWN if own_database else _LET_IN)]
    return [statement.format(role=role, members=TENANTS, **limits) for statement in statements]


def declare_secrets(
    tenant: TenantEntry,
    platform: Vault,
    storage: TenantStorage,
    endpoint: str,
    region: str,
    schema: Schema,
    opts: pulumi.ResourceOptions,
) -> list[pulumi.Resource]:
    """Declare policy, secrets, logins, and what its agents are let in by.

    Returns:
        What its agents have to wait for.
    """
    name = tenant.id
    after_schema = pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=schema.declared))
    opts = pulumi.ResourceOptions.merge(
        opts, pulumi.ResourceOptions(provider=platform.provider, depends_on=platform.furnished)
    )
    holdings = Holdings(
        f"{name}-holdings",
        tenant=tenant,
        vault=platform,
        opts=protected(after_schema, tenant),
    )
    # After it in life, so before it in death: nobody gets a login or a secret while it empties.
    held = pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[holdings]))
    vault.kv.SecretV2(
        f"{name}-object-storage",
        mount=platform.kv_mount,
        name=f"{name}/{OBJECT_STORAGE}",
        data_json=pulumi.Output.json_dumps(
            {
                "endpoint": endpoint,
                "region": region,
                "bucket": storage.bucket,
                "prefix": storage.prefix,
                "logs_bucket": storage.logs,
                "access_key": storage.access_key,
                "secret_key": storage.secret_key,
            }
        ),
        delete_all_versions=True,
        opts=held,
    )
    logins = vault.database.SecretBackendRole(
        f"{name}-logins",
        backend=platform.database_mount,
        db_name=schema.connection,
        name=tenant.dashed,
        creation_statements=[
            *creation_statements(tenant.underscored, tenant.parts.logins, own_database=tenant.own_database)
        ],
        revocation_statements=[
            *(_SHUT_OUT_OWN if tenant.own_database else ()),
            *_REVOKE,
        ],
        default_ttl=_HOUR,
        max_ttl=24 * _HOUR,
        # Another database makes it another role of the same name.
        opts=pulumi.ResourceOptions.merge(held, pulumi.ResourceOptions(delete_before_replace=True)),
    )
    # Each is a transaction in PostgreSQL and a lease in Vault, whose way there all tenants share.
    rate = vault.QuotaRateLimit(
        f"{name}-logins-rate",
        name=tenant.dashed,
        path=pulumi.Output.concat(platform.database_mount, f"/creds/{tenant.dashed}"),
        rate=_LOGINS_A_MINUTE,
        interval=60,
        opts=pulumi.ResourceOptions.merge(held, pulumi.ResourceOptions(depends_on=[logins])),
    )
    policy = vault.Policy(
        f"{name}-policy",
        name=tenant.dashed,
        policy=_POLICY.format(
            id=name,
            name=tenant.dashed,
            object_storage=OBJECT_STORAGE,
            gateway=GATEWAY,
            vpn=VPN,
            secrets=platform.kv_mount,
            database=platform.database_mount,
        ),
        opts=held,
    )
    # Nobody logs in for a tenant that is suspended or leaves: so it is not served, whoever would run it. The
    # machine of one that is moving does, to reach its prefix.
    if tenant.state not in ("active", "moving"):
        return [logins, rate, policy]
    let_in = _by_assertion if tenant.parts.shared_runtime else _by_account
    return [
        let_in(
            tenant,
            platform,
            pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[logins, rate, policy])),
        )
    ]


def _by_account(tenant: TenantEntry, platform: Vault, opts: pulumi.ResourceOptions) -> pulumi.Resource:
    """Declare that the account which its agents run under gets in, and nobody else."""
    return vault.kubernetes.AuthBackendRole(
        f"{tenant.id}-login",
        backend=platform.kubernetes_auth_path,
        role_name=tenant.dashed,
        bound_service_account_names=[SERVICE_ACCOUNT],
        bound_service_account_namespaces=[tenant.dashed],
        # KubeVirt puts the account's ordinary token on a machine's disk; a pod has one meant for Vault alone.
        audience=None if tenant.parts.machine else AUDIENCE,
        token_policies=[tenant.dashed],
        token_no_default_policy=True,
        token_ttl=_HOUR,
        token_max_ttl=24 * _HOUR,
        opts=opts,
    )


def _by_assertion(tenant: TenantEntry, platform: Vault, opts: pulumi.ResourceOptions) -> pulumi.Resource:
    """Declare that whoever shows the gateway's word for a request of the tenant's gets in, for a while."""
    return vault.jwt.AuthBackendRole(
        f"{tenant.id}-login",
        backend=platform.jwt_auth_path,
        role_name=tenant.dashed,
        role_type="jwt",
        user_claim=CLAIM,
        bound_audiences=[AUDIENCE],
        bound_claims_type="string",
        bound_claims={CLAIM: tenant.id},
        # The audit log tells on whose behalf.
        claim_mappings={"sub": "subject"},
        clock_skew_leeway=SKEW,
        token_policies=[tenant.dashed],
        token_no_default_policy=True,
        token_ttl=_QUARTER,
        token_explicit_max_ttl=_QUARTER,
        opts=opts,
    )
