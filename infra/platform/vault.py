"""Vault (OpenBao): tenants' secrets, and short-lived logins to PostgreSQL.

Managed: OpenBao's own chart, <https://openbao.org/docs/platform/k8s/helm/>. Somebody initialises and unseals
it once after the first `pulumi up` and exports `VAULT_TOKEN` for the second: the root of trust is no output
of a program. The audit log is part of the server's configuration, the only place OpenBao takes it from
(<https://openbao.org/docs/configuration/audit/>); for a Vault that is given, whoever runs it has set it up.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pulumi
import pulumi_kubernetes as k8s
import pulumi_vault as vault

from infra.cluster.access import KubernetesApi
from infra.cluster.object_storage import ObjectStorage
from infra.outputs import Told
from infra.platform import charts
from infra.platform.certificates import Certificates
from infra.platform.database import Database
from infra.platform.entrance import operator_entrance
from infra.platform.namespaces import namespace
from infra.platform.network_policies import Destination, pods_at, url_at
from infra.platform.storage_keys import backup_key
from infra.settings import GivenVault, ManagedVault, Settings

NAMESPACE = "vault"
_NAME = "vault"
_PORT = 8200
_TLS = "/openbao/tls"
_LARGEST_REQUEST = 128 * 1024
"""Bytes of one request."""
KV = "tenants"
"""The mount of tenants' secrets, KV version 2."""
_DATABASE = "database"
_CONNECTION = "agents"
_SNAPSHOT = "vault-snapshot"
_SNAPSHOT_SECONDS = 600
DATABASE_CONNECTIONS = 10
"""Vault's own connections to each database, with which it makes logins."""
_KUBERNETES = "kubernetes"
_JWT = "jwt"
AUDIENCE = "vault"
"""Whom a pod's token for Vault, or the gateway's word, is meant for: Vault takes no other from them."""


@dataclass(frozen=True, kw_only=True)
class DatabaseServer:
    """PostgreSQL as Vault reaches it, and the role with which it makes logins there."""

    address: pulumi.Output[str]
    """`host:port`."""
    tls: str
    """libpq's parameters for TLS."""
    issuer_role: pulumi.Output[str]
    issuer_password: pulumi.Output[str]
    """Secret."""


@dataclass(frozen=True, kw_only=True)
class Vault:
    """Where Vault is, and the mounts that tenants are given a part of."""

    provider: vault.Provider
    address: str
    """As reached from the cluster."""
    operator_address: pulumi.Input[str]
    """As reached from where this program runs."""
    destination: Destination
    """The same, as a NetworkPolicy puts it."""
    authority: pulumi.Output[str] | None
    """The certificate (PEM) of whoever vouches for it; None: an authority that everybody trusts."""
    server_name: str | None
    """The name in its certificate, where the provider reaches it by another."""
    token: pulumi.Output[str] | None
    """The provider's; None: the one that whoever runs the program has exported."""
    kv_mount: str
    """The KV v2 mount."""
    database_mount: str
    """The database secrets engine's mount."""
    database_connection: str
    """The connection on that mount to the database that all tenants share."""
    kubernetes_auth_path: str
    """The Kubernetes auth method's mount."""
    jwt_auth_path: str
    """The JWT auth method's mount, which takes the gateway's word."""
    database_server: DatabaseServer
    """For connections to databases other than the shared one."""
    furnished: list[pulumi.Resource]
    """What a tenant's part of the mounts has to wait for."""


def given_vault(
    prefix: str,
    given: GivenVault,
    token: pulumi.Output[str],
    *,
    api: KubernetesApi,
    namespace: pulumi.Input[str],
    database: Database,
    opts: pulumi.ResourceOptions,
) -> Vault:
    """Furnish a Vault that runs already, outside the cluster.

    It asks the Kubernetes API about tokens with an account of its own in `namespace`, which may do only that.
    """
    return _furnished(
        prefix,
        address=given.address,
        operator_address=given.address,
        destination=url_at(given.address),
        authority=None,
        server_name=None,
        token=token,
        database=database,
        database_host=database.host,
        # A Vault outside the cluster does not know the platform's authority: encrypted, but unverified.
        database_tls="sslmode=require" if database.authority is not None else f"sslmode={database.ssl_mode}",
        kubernetes={
            "kubernetes_host": api.server,
            "kubernetes_ca_cert": api.certificate_authority,
            "token_reviewer_jwt": _reviewer_token(f"{prefix}-reviewer", namespace, opts),
            "disable_local_ca_jwt": True,
        },
        opts=opts,
    )


def managed_vault(
    prefix: str,
    settings: Settings,
    wanted: ManagedVault,
    *,
    certificates: Certificates,
    database: Database,
    cluster_name: str,
    storage: ObjectStorage,
    instance_pool: pulumi.Input[str],
    opts: pulumi.ResourceOptions,
) -> Vault:
    """Run OpenBao in the namespace `vault` and furnish it once somebody has unsealed it.

    It is backed up to `storage` every hour. `instance_pool` has the nodes before which the load balancer for
    operators stands.
    """
    server_name = f"vault.{settings.domain}"
    home = namespace(f"{prefix}-namespace", NAMESPACE, "restricted", opts)
    certificate = certificates.server(
        _NAME,
        home.metadata.name,
        [
            server_name,
            _NAME,
            f"{_NAME}.{NAMESPACE}.svc",
            f"{_NAME}-active.{NAMESPACE}.svc",
            f"*.{_NAME}-internal",
            "localhost",
        ],
        opts,
    )
    key = backup_key(prefix, "vault", storage.backups, cluster_name, opts)
    credentials = k8s.core.v1.Secret(
        f"{prefix}-snapshot-key",
        metadata={"name": _SNAPSHOT, "namespace": home.metadata["name"]},
        string_data={"AWS_ACCESS_KEY_ID": key.access_key, "AWS_SECRET_ACCESS_KEY": key.secret_key},
        opts=opts,
    )
    release = charts.install(
        prefix,
        charts.OPENBAO,
        release=_NAME,
        namespace=home.metadata.name,
        values={**_values(wanted, f"{_NAME}-tls"), "snapshotAgent": _snapshots(storage, f"{_NAME}-tls")},
        wait=False,
        opts=pulumi.ResourceOptions.merge(
            opts, pulumi.ResourceOptions(depends_on=[certificate, credentials], protect=True)
        ),
    )
    host = operator_entrance(
        f"{prefix}-entrance",
        "vault-operators",
        namespace=home.metadata.name,
        selector={"app.kubernetes.io/name": "openbao", "component": "server", "openbao-active": "true"},
        port=_PORT,
        networks=[str(network) for network in settings.operator_networks],
        instance_pool=instance_pool,
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[release])),
    )
    verified = f"sslmode=verify-full&sslrootcert={_TLS}/ca.crt"
    furnished = _furnished(
        prefix,
        address=f"https://{_NAME}-active.{NAMESPACE}.svc:{_PORT}",
        operator_address=pulumi.Output.concat("https://", host, f":{_PORT}"),
        destination=pods_at(NAMESPACE, {"app.kubernetes.io/name": "openbao", "component": "server"}, _PORT),
        authority=certificates.authority,
        # The load balancer's address is in no certificate; the name is, whether DNS knows it or not.
        server_name=server_name,
        token=None,
        database=database,
        database_host=database.internal_host,
        database_tls=verified if database.authority is not None else f"sslmode={database.ssl_mode}",
        # Its own account and the cluster's CA, both mounted into its pods; the chart lets it review tokens.
        kubernetes={"kubernetes_host": "https://kubernetes.default.svc"},
        opts=opts,
    )
    _let_snapshots_be_taken(prefix, furnished, opts)
    return furnished


def _let_snapshots_be_taken(prefix: str, server: Vault, opts: pulumi.ResourceOptions) -> None:
    """Declare that the account of the chart's snapshot agent reads a snapshot, and nothing else."""
    inside = pulumi.ResourceOptions(parent=opts.parent, provider=server.provider, depends_on=server.furnished)
    policy = vault.Policy(
        f"{prefix}-snapshot-policy",
        name=_SNAPSHOT,
        policy='path "sys/storage/raft/snapshot" {\n  capabilities = ["read"]\n}\n',
        opts=inside,
    )
    vault.kubernetes.AuthBackendRole(
        f"{prefix}-snapshot-role",
        backend=server.kubernetes_auth_path,
        role_name=_SNAPSHOT,
        bound_service_account_names=[_SNAPSHOT],
        bound_service_account_namespaces=[NAMESPACE],
        token_policies=[policy.name],
        token_ttl=_SNAPSHOT_SECONDS,
        token_max_ttl=_SNAPSHOT_SECONDS,
        opts=inside,
    )


def _snapshots(storage: ObjectStorage, certificate: str) -> dict[str, Any]:
    """Return the chart's values for its snapshot agent: a snapshot an hour, for two weeks.

    <https://openbao.org/docs/platform/k8s/helm/examples/snapshot-cronjob>. What it stores is encrypted with
    the server's own keys.
    """
    return {
        "enabled": True,
        "schedule": "37 * * * *",
        "serviceAccount": {"name": _SNAPSHOT},
        "s3CredentialsSecret": _SNAPSHOT,
        "config": {
            "s3Host": urlsplit(storage.endpoint).netloc,
            "s3Bucket": storage.backups,
            "s3Uri": pulumi.Output.concat("s3://", storage.backups, "/vault"),
            "s3ExpireDays": "14",
            "baoAuthPath": _KUBERNETES,
            "baoRole": _SNAPSHOT,
        },
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "extraEnvironmentVars": {"BAO_CACERT": f"{_TLS}/ca.crt"},
        "extraVolumes": [{"name": "tls", "secret": {"secretName": certificate}}],
        "extraVolumeMounts": [
            {"name": "tls", "mountPath": f"{_TLS}/ca.crt", "subPath": "ca.crt", "readOnly": True}
        ],
    }


def vault_of(prefix: str, told: Told, opts: pulumi.ResourceOptions) -> Vault:
    """The Vault that another stack declares or was given, and has furnished."""
    provider = _provider(prefix, told["operator_address"], told["server_name"], told["token"], opts)
    return Vault(provider=provider, furnished=[], **told)


def _provider(
    prefix: str,
    address: pulumi.Input[str],
    server_name: str | None,
    token: pulumi.Output[str] | None,
    opts: pulumi.ResourceOptions,
) -> vault.Provider:
    return vault.Provider(
        f"{prefix}-provider",
        address=address,
        tls_server_name=server_name,
        token=token,
        skip_child_token=True,
        opts=opts,
    )


def _furnished(
    prefix: str,
    *,
    address: str,
    operator_address: pulumi.Input[str],
    destination: Destination,
    authority: pulumi.Output[str] | None,
    server_name: str | None,
    token: pulumi.Output[str] | None,
    database: Database,
    database_host: pulumi.Input[str],
    database_tls: str,
    kubernetes: Mapping[str, Any],
    opts: pulumi.ResourceOptions,
) -> Vault:
    """Declare the mounts all tenants share; each gets its own role and policy on them."""
    own = pulumi.ResourceOptions(parent=opts.parent)
    provider = _provider(prefix, operator_address, server_name, token, own)
    inside = pulumi.ResourceOptions(parent=opts.parent, provider=provider)
    # Whoever unmounts it deletes every tenant's secrets.
    kept = pulumi.ResourceOptions.merge(inside, pulumi.ResourceOptions(protect=True))
    secrets = vault.Mount(
        f"{prefix}-tenants",
        path=KV,
        type="kv",
        options={"version": "2"},
        description="Tenants' secrets, under their id",
        opts=kept,
    )
    engine = vault.Mount(
        f"{prefix}-database",
        path=_DATABASE,
        type="database",
        description="Short-lived PostgreSQL logins",
        opts=inside,
    )
    server = DatabaseServer(
        address=pulumi.Output.concat(database_host, f":{database.port}"),
        tls=database_tls,
        issuer_role=database.issuer_role,
        issuer_password=database.issuer_password,
    )
    connection = database_connection(
        f"{prefix}-database-connection",
        server,
        mount=engine.path,
        name=_CONNECTION,
        database=database.name,
        # Whose role names which connection is up to this program: a role outlives a move to another database.
        roles=["tenant-*"],
        opts=inside,
    )
    auth = vault.AuthBackend(
        f"{prefix}-kubernetes",
        type="kubernetes",
        path=_KUBERNETES,
        description="Tenants' agents, by their service account",
        opts=inside,
    )
    configured = vault.kubernetes.AuthBackendConfig(
        f"{prefix}-kubernetes-config", backend=auth.path, **kubernetes, opts=inside
    )
    return Vault(
        provider=provider,
        address=address,
        operator_address=operator_address,
        destination=destination,
        authority=authority,
        server_name=server_name,
        token=token,
        database_server=server,
        kv_mount=KV,
        database_mount=_DATABASE,
        database_connection=_CONNECTION,
        kubernetes_auth_path=_KUBERNETES,
        jwt_auth_path=_JWT,
        # The configuration of logins, too, so that no tenant has one before it works.
        furnished=[secrets, connection, configured],
    )


def database_connection(
    resource_name: str,
    server: DatabaseServer,
    *,
    mount: pulumi.Input[str],
    name: str,
    database: pulumi.Input[str],
    roles: Sequence[str],
    opts: pulumi.ResourceOptions,
) -> vault.database.SecretBackendConnection:
    """Declare Vault's way into `database`, on which it makes logins for `roles` and no others."""
    return vault.database.SecretBackendConnection(
        resource_name,
        backend=mount,
        name=name,
        allowed_roles=list(roles),
        verify_connection=True,
        postgresql=vault.database.SecretBackendConnectionPostgresqlArgs(
            connection_url=pulumi.Output.concat(
                "postgresql://{{username}}:{{password}}@", server.address, "/", database, f"?{server.tls}"
            ),
            username=server.issuer_role,
            password=server.issuer_password,
            password_authentication="scram-sha-256",  # noqa: S106 — a method, not a password
            max_open_connections=DATABASE_CONNECTIONS,
        ),
        opts=opts,
    )


def _reviewer_token(
    prefix: str, namespace: pulumi.Input[str], opts: pulumi.ResourceOptions
) -> pulumi.Output[str]:
    """Declare an account that may ask whose a token is, and return its own token, which is a secret."""
    name = "vault-token-reviewer"
    account = k8s.core.v1.ServiceAccount(
        prefix,
        metadata=k8s.meta.v1.ObjectMetaArgs(name=name, namespace=namespace),
        automount_service_account_token=False,
        opts=opts,
    )
    k8s.rbac.v1.ClusterRoleBinding(
        f"{prefix}-binding",
        metadata=k8s.meta.v1.ObjectMetaArgs(name=name),
        role_ref=k8s.rbac.v1.RoleRefArgs(
            api_group="rbac.authorization.k8s.io", kind="ClusterRole", name="system:auth-delegator"
        ),
        subjects=[
            k8s.rbac.v1.SubjectArgs(kind="ServiceAccount", name=account.metadata.name, namespace=namespace)
        ],
        opts=opts,
    )
    token = k8s.core.v1.Secret(
        f"{prefix}-token",
        metadata=k8s.meta.v1.ObjectMetaArgs(
            name=name,
            namespace=namespace,
            annotations={"kubernetes.io/service-account.name": account.metadata.name},
        ),
        type="kubernetes.io/service-account-token",
        opts=opts,
    )
    return pulumi.Output.secret(
        token.data.apply(lambda data: base64.b64decode((data or {}).get("token", "")).decode())
    )


def _values(wanted: ManagedVault, certificate: pulumi.Input[str]) -> dict[str, Any]:
    """The chart's values: a Raft cluster that speaks TLS only, its audit log on a volume of its own."""
    return {
        "fullnameOverride": _NAME,
        "global": {"tlsDisable": False},
        "injector": {"enabled": False},
        "server": {
            "extraEnvironmentVars": {"BAO_CACERT": f"{_TLS}/ca.crt"},
            "volumes": [{"name": "tls", "secret": {"secretName": certificate}}],
            "volumeMounts": [{"name": "tls", "mountPath": _TLS, "readOnly": True}],
            "dataStorage": {"size": f"{wanted.storage_gib}Gi", "storageClass": "exoscale-sbs"},
            "auditStorage": {"enabled": True, "size": "10Gi", "storageClass": "exoscale-sbs"},
            "statefulSet": {
                "securityContext": {
                    "pod": {
                        "runAsNonRoot": True,
                        "runAsUser": 100,
                        "runAsGroup": 1000,
                        "fsGroup": 1000,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "container": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            },
            "ha": {
                "enabled": True,
                "replicas": wanted.replicas,
                "raft": {"enabled": True, "setNodeId": True, "config": _configuration(wanted.replicas)},
            },
        },
    }


def _configuration(replicas: int) -> str:
    """The server's configuration (HCL)."""
    peers = "".join(
        f"""
  retry_join {{
    leader_api_addr     = "https://{_NAME}-{index}.{_NAME}-internal:{_PORT}"
    leader_ca_cert_file = "{_TLS}/ca.crt"
  }}"""
        for index in range(replicas)
    )
    return f"""ui = false
listener "tcp" {{
  address         = "[::]:{_PORT}"
  cluster_address = "[::]:8201"
  tls_cert_file   = "{_TLS}/tls.crt"
  tls_key_file    = "{_TLS}/tls.key"
  # What is written is kept by all servers, and a tenant writes what it likes.
  max_request_size = {_LARGEST_REQUEST}
  telemetry {{
    unauthenticated_metrics_access = true
  }}
}}
telemetry {{
  prometheus_retention_time = "2m"
  disable_hostname          = true
}}
storage "raft" {{
  path = "/openbao/data"{peers}
}}
service_registration "kubernetes" {{}}
audit "file" "volume" {{
  options {{ file_path = "/openbao/audit/audit.log" }}
}}
audit "file" "stdout" {{
  options {{ file_path = "stdout" }}
}}
"""
