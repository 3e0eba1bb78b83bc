"""PostgreSQL, shared by all tenants, one schema each.

Managed: CloudNativePG, <https://cloudnative-pg.io/documentation/current/>, with the Barman Cloud plugin for
backups, <https://cloudnative-pg.io/plugin-barman-cloud/docs/>.
"""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import pulumi
import pulumi_kubernetes as k8s
import pulumi_postgresql as postgresql

from infra.cluster.object_storage import ObjectStorage
from infra.outputs import Told
from infra.platform import charts
from infra.platform.certificates import Certificates
from infra.platform.control_schema import TENANTS, ControlSchema
from infra.platform.entrance import operator_entrance
from infra.platform.namespaces import namespace
from infra.platform.network_policies import Destination, host_at, pods_at
from infra.platform.password import Password
from infra.platform.storage_keys import backup_key
from infra.settings import GivenDatabase, ManagedDatabase, Settings

NAMESPACE = "databases"
_ISSUER = "vault"
LIMITS = "limits"
"""The role that holds tenants to their limits: it may call one function, in the database that all share."""
MONITORING = "monitoring"
"""The role that tells monitoring what tenants have: it may call one function there, too."""
ACCOUNTING = "accounting"
"""The role that keeps the ledger of what tenants use (`ledger.sql`)."""
_PASSWORD = "password"  # noqa: S105 — a file's name
_AUTHORITY = "ca.crt"
_CLUSTER = "postgres"
_PORT = 5432
_IMAGE = "ghcr.io/cloudnative-pg/postgresql:18.6-202608131513-minimal-trixie"
_OWN_CONNECTIONS = 40
"""Connections beside the tenants': of Vault, which makes their logins."""
_KEPT_CONNECTIONS = 20
"""Connections for Vault, and for who holds tenants to their limits, when tenants hold all others."""
_RESERVED_CONNECTIONS = 40
"""Connections for superusers alone: this program's, several of which take part in an update."""
_TEMPORARY = "1GB"
"""Temporary files of one session; only a superuser can raise it."""
_LOCKS = "256"
"""The server's table of locks has room for as many times its connections: all databases share it."""
_NOTIFICATIONS = "131072"
"""Pages of 8 KiB for notifications that somebody has not read yet: all databases share them, too."""
_AUTHENTICATION = "10s"
"""The time in which a client has to authenticate; its connection counts among the server's from the start."""
_STORAGE_CLASS = "exoscale-sbs"
"""Exoscale's block storage: PostgreSQL replicates by itself, Longhorn would do it a second time."""


@dataclass(frozen=True, kw_only=True)
class Database:
    """Where PostgreSQL is and how this program enters it."""

    provider: postgresql.Provider
    host: pulumi.Input[str]
    """As reached from where this program runs."""
    port: int
    internal_host: str
    """As reached from the cluster."""
    destination: Destination
    """The same, as a NetworkPolicy puts it."""
    name: pulumi.Input[str]
    admin_user: str
    admin_password: pulumi.Output[str]
    """Secret."""
    ssl_mode: str
    """libpq's `sslmode`; with `verify-ca` the authority's certificate is the file in `PGSSLROOTCERT`."""
    connections: int
    """The number of connections that all tenants together may hold."""
    backup_days: int | None
    """How long its backups are kept; None: whoever runs it knows."""
    authority: pulumi.Input[str] | None
    """The platform's own authority (PEM), of which the server's certificate is; None: it is another's."""
    issuer_role: pulumi.Output[str]
    """The role with which Vault makes tenants' logins. It must be granted each tenant's role with the admin
    option before it can do so (PostgreSQL 16 and newer)."""
    issuer_password: pulumi.Output[str]
    """Secret."""
    limits_password: pulumi.Output[str]
    """Of the role `limits`. Secret."""
    monitoring_password: pulumi.Output[str]
    """Of the role `monitoring`. Secret."""
    accounting_password: pulumi.Output[str]
    """Of the role `accounting`. Secret."""
    control_schema: pulumi.Output[str]
    """The platform's own schema there (`control_schema.py`)."""

    def verified(self, certificate: str) -> dict[str, str]:
        """libpq's `sslmode` and `sslrootcert` within the cluster; `certificate` is the authority's file."""
        if self.authority is not None:
            return {"sslmode": "verify-full", "sslrootcert": certificate}
        if self.ssl_mode.startswith("verify-"):
            # By the public authorities, which vouch for a name or for nothing.
            return {"sslmode": "verify-full", "sslrootcert": "system"}
        return {"sslmode": self.ssl_mode}

    def url(self, certificate: str, name: pulumi.Input[str] | None = None) -> pulumi.Output[str]:
        """The database's URL within the cluster, or that of another one there, without a login."""
        server = f"postgresql://{self.internal_host}:{self.port}/"
        return pulumi.Output.concat(server, name or self.name, "?", urlencode(self.verified(certificate)))

    def environment(self, user: str, folder: str) -> dict[str, pulumi.Input[str]]:
        """libpq's variables for a service of the platform that has its `files` in `folder`."""
        verified = self.verified(f"{folder}/{_AUTHORITY}")
        return {
            "PGHOST": self.internal_host,
            "PGPORT": str(self.port),
            "PGDATABASE": self.name,
            "PGUSER": user,
            "PGPASSWORD_FILE": f"{folder}/{_PASSWORD}",
            **{f"PG{name.upper()}": value for name, value in verified.items()},
        }

    def files(self, password: pulumi.Output[str]) -> dict[str, pulumi.Input[str]]:
        """Return the contents of a service's Secret: its password, and the server's authority."""
        authority = {_AUTHORITY: self.authority} if self.authority is not None else {}
        return {_PASSWORD: password, **authority}

    def entrance(self, database: pulumi.Input[str] | None = None) -> dict[str, Any]:
        """The administrator's way in, or into another database there, as `administrator.connect` takes it."""
        return _entrance(
            self.host,
            self.port,
            database or self.name,
            self.admin_user,
            self.admin_password,
            self.ssl_mode,
        )


def given_database(
    prefix: str, given: GivenDatabase, password: pulumi.Output[str], opts: pulumi.ResourceOptions
) -> Database:
    """Enter a PostgreSQL that runs already."""
    return _entered(
        prefix,
        host=given.host,
        internal_host=given.host,
        destination=host_at(given.host, given.port),
        port=given.port,
        name=given.name,
        admin_user=given.admin_user,
        admin_password=password,
        ssl_mode=given.ssl_mode,
        connections=given.connections,
        backup_days=None,
        authority=None,
        opts=opts,
    )


def managed_database(
    prefix: str,
    settings: Settings,
    wanted: ManagedDatabase,
    *,
    cluster_name: str,
    operators: pulumi.Input[str],
    certificates: Certificates,
    storage: ObjectStorage,
    instance_pool: pulumi.Input[str],
    opts: pulumi.ResourceOptions,
) -> Database:
    """Run PostgreSQL in the namespace `databases`, its operator in the namespace `operators`.

    `instance_pool` has the nodes before which the load balancer for operators stands.
    """
    password = Password(f"{prefix}-admin-password", pulumi.ResourceOptions(parent=opts.parent))
    cluster = _cluster(prefix, cluster_name, wanted, operators, certificates, storage, password, opts)
    host = operator_entrance(
        f"{prefix}-entrance",
        "postgres-operators",
        namespace=NAMESPACE,
        selector={"cnpg.io/cluster": _CLUSTER, "cnpg.io/instanceRole": "primary"},
        port=_PORT,
        networks=[str(network) for network in settings.operator_networks],
        instance_pool=instance_pool,
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[cluster])),
    )
    return _entered(
        prefix,
        host=host,
        internal_host=f"{_CLUSTER}-rw.{NAMESPACE}.svc",
        destination=pods_at(NAMESPACE, {"cnpg.io/cluster": _CLUSTER}, _PORT),
        port=_PORT,
        name=wanted.name,
        admin_user="postgres",
        admin_password=password.value,
        ssl_mode="verify-ca",
        connections=wanted.connections,
        backup_days=wanted.backup_retention_days,
        authority=certificates.authority,
        opts=opts,
    )


def database_of(prefix: str, told: Told, opts: pulumi.ResourceOptions) -> Database:
    """The PostgreSQL that another stack declares or was given."""
    provider = _provider(
        prefix,
        told["host"],
        told["port"],
        told["name"],
        told["admin_user"],
        told["admin_password"],
        told["ssl_mode"],
        opts,
    )
    return Database(provider=provider, **told)


def _provider(
    prefix: str,
    host: pulumi.Input[str],
    port: int,
    name: pulumi.Input[str],
    admin_user: str,
    admin_password: pulumi.Output[str],
    ssl_mode: str,
    opts: pulumi.ResourceOptions,
) -> postgresql.Provider:
    return postgresql.Provider(
        f"{prefix}-provider",
        host=host,
        port=port,
        database=name,
        username=admin_user,
        password=admin_password,
        sslmode=ssl_mode,
        connect_timeout=15,
        opts=opts,
    )


def _entered(
    prefix: str,
    *,
    host: pulumi.Input[str],
    internal_host: str,
    destination: Destination,
    port: int,
    name: str,
    admin_user: str,
    admin_password: pulumi.Output[str],
    ssl_mode: str,
    connections: int,
    backup_days: int | None,
    authority: pulumi.Input[str] | None,
    opts: pulumi.ResourceOptions,
) -> Database:
    """Declare the provider, and the role with which Vault makes logins: it may make roles, no more."""
    own = pulumi.ResourceOptions(parent=opts.parent)
    provider = _provider(prefix, host, port, name, admin_user, admin_password, ssl_mode, own)
    password = Password(f"{prefix}-issuer-password", own)
    issuer = postgresql.Role(
        f"{prefix}-issuer",
        name=_ISSUER,
        login=True,
        password=password.value,
        create_role=True,
        # It hands tenants' roles on; it does not act in them by itself.
        inherit=False,
        # Its memberships are the tenants' (GrantRole); read back as the role's, an update would revoke them.
        opts=pulumi.ResourceOptions(parent=opts.parent, provider=provider, ignore_changes=["roles"]),
    )
    inside = pulumi.ResourceOptions(parent=opts.parent, provider=provider)
    limits_password, limits = _service_role(prefix, LIMITS, inside)
    monitoring_password, monitoring = _service_role(prefix, MONITORING, inside)
    accounting_password, accounting = _service_role(prefix, ACCOUNTING, inside)
    entrances = _entrances(prefix, name, issuer, [limits, monitoring, accounting], inside)
    control = ControlSchema(
        f"{prefix}-control",
        entrance=_entrance(host, port, name, admin_user, admin_password, ssl_mode),
        issuer=_ISSUER,
        members=TENANTS,
        keeper=LIMITS,
        observer=MONITORING,
        accountant=ACCOUNTING,
        opts=_after(own, *entrances),
    )
    _close(prefix, name, _after(inside, control))
    return Database(
        provider=provider,
        host=host,
        internal_host=internal_host,
        destination=destination,
        port=port,
        name=name,
        admin_user=admin_user,
        admin_password=admin_password,
        ssl_mode=ssl_mode,
        connections=connections,
        backup_days=backup_days,
        authority=authority,
        issuer_role=issuer.name,
        issuer_password=password.value,
        limits_password=limits_password.value,
        monitoring_password=monitoring_password.value,
        accounting_password=accounting_password.value,
        control_schema=control.schema,
    )


def _service_role(prefix: str, name: str, opts: pulumi.ResourceOptions) -> tuple[Password, postgresql.Role]:
    """Declare the login of one of the platform's own services, and draw its password."""
    password = Password(f"{prefix}-{name}-password", pulumi.ResourceOptions(parent=opts.parent))
    role = postgresql.Role(
        f"{prefix}-{name}",
        name=name,
        login=True,
        password=password.value,
        inherit=False,
        # Its one membership is the control schema's to grant.
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(ignore_changes=["roles"])),
    )
    return password, role


def _entrances(
    prefix: str,
    database: str,
    issuer: postgresql.Role,
    services: list[postgresql.Role],
    opts: pulumi.ResourceOptions,
) -> list[pulumi.Resource]:
    """Let the platform's own roles, and the members of another, into the database that tenants share.

    Vault makes members.
    """
    members = postgresql.Role(f"{prefix}-tenants", name=TENANTS, login=False, opts=opts)
    # By the names that they have, so that who gets what is in every plan.
    known = _after(opts, members, issuer, *services)
    return [
        postgresql.GrantRole(
            f"{prefix}-tenants-issuer",
            role=_ISSUER,
            grant_role=TENANTS,
            with_admin_option=True,
            opts=pulumi.ResourceOptions.merge(known, pulumi.ResourceOptions(delete_before_replace=True)),
        ),
        *(
            postgresql.Grant(
                f"{prefix}-connect-{who}",
                database=database,
                role=role,
                object_type="database",
                privileges=privileges,
                opts=known,
            )
            for who, role, privileges in (
                ("issuer", _ISSUER, ["CONNECT"]),
                ("limits", LIMITS, ["CONNECT"]),
                ("monitoring", MONITORING, ["CONNECT"]),
                ("accounting", ACCOUNTING, ["CONNECT"]),
                ("tenants", TENANTS, ["CONNECT"]),
            )
        ),
    ]


def _close(prefix: str, database: str, opts: pulumi.ResourceOptions) -> None:
    """Let nobody else into any database of the server: what hangs on a role there, nobody would look for."""
    for name in dict.fromkeys([database, "postgres", "template1"]):
        postgresql.Grant(
            f"{prefix}-closed-{name}",
            database=name,
            role="public",
            object_type="database",
            privileges=[],
            opts=opts,
        )


def _entrance(
    host: pulumi.Input[str],
    port: int,
    database: pulumi.Input[str],
    user: str,
    password: pulumi.Input[str],
    ssl_mode: str,
) -> dict[str, Any]:
    return {
        "host": host,
        "port": port,
        "database": database,
        "user": user,
        "password": password,
        "sslMode": ssl_mode,
    }


def _cluster(
    prefix: str,
    cluster_name: str,
    wanted: ManagedDatabase,
    operators: pulumi.Input[str],
    certificates: Certificates,
    storage: ObjectStorage,
    password: Password,
    opts: pulumi.ResourceOptions,
) -> pulumi.Resource:
    """Declare operator, backup plugin, the servers and their nightly backup."""
    operator = charts.install(
        f"{prefix}-operator",
        charts.CLOUDNATIVE_PG,
        release="cloudnative-pg",
        namespace=operators,
        values={"crds": {"create": True}},
        opts=opts,
    )
    plugin = charts.install(
        f"{prefix}-barman-cloud",
        charts.BARMAN_CLOUD,
        release="barman-cloud",
        namespace=operators,
        values={},
        opts=_after(opts, operator, certificates.release),
    )
    home = namespace(f"{prefix}-namespace", NAMESPACE, "restricted", opts)
    certificate = certificates.server(
        _CLUSTER,
        home.metadata.name,
        [f"{_CLUSTER}-{role}{suffix}" for role in ("rw", "ro", "r") for suffix in ("", f".{NAMESPACE}.svc")],
        opts,
    )
    superuser = _secret(
        f"{prefix}-admin",
        "postgres-admin",
        {"username": "postgres", "password": password.value},
        "kubernetes.io/basic-auth",
        home,
        opts,
    )
    key = backup_key(prefix, "postgres", storage.backups, cluster_name, opts)
    backup_credentials = _secret(
        f"{prefix}-backup",
        "postgres-backup",
        {"access-key": key.access_key, "secret-key": key.secret_key, "region": storage.region},
        "Opaque",
        home,
        opts,
    )
    store = k8s.apiextensions.CustomResource(
        f"{prefix}-backup-store",
        api_version="barmancloud.cnpg.io/v1",
        kind="ObjectStore",
        metadata={"name": _CLUSTER, "namespace": home.metadata["name"]},
        spec={
            "retentionPolicy": f"{wanted.backup_retention_days}d",
            "configuration": {
                "destinationPath": storage.backups.apply(lambda bucket: f"s3://{bucket}/postgres"),
                "endpointURL": storage.endpoint,
                "s3Credentials": {
                    field: {"name": backup_credentials.metadata["name"], "key": name}
                    for field, name in (
                        ("accessKeyId", "access-key"),
                        ("secretAccessKey", "secret-key"),
                        ("region", "region"),
                    )
                },
                "wal": {"compression": "gzip"},
                "data": {"compression": "gzip"},
            },
            "instanceSidecarConfiguration": {
                # S3 servers other than Amazon's do not know the checksums that newer clients send.
                "env": [
                    {"name": "AWS_REQUEST_CHECKSUM_CALCULATION", "value": "when_required"},
                    {"name": "AWS_RESPONSE_CHECKSUM_VALIDATION", "value": "when_required"},
                ]
            },
        },
        opts=_after(opts, plugin),
    )
    cluster = k8s.apiextensions.CustomResource(
        f"{prefix}-cluster",
        api_version="postgresql.cnpg.io/v1",
        kind="Cluster",
        metadata={
            "name": _CLUSTER,
            "namespace": NAMESPACE,
            "annotations": {"pulumi.com/waitFor": "condition=Ready", "pulumi.com/timeoutSeconds": "1800"},
        },
        spec={
            "instances": wanted.instances,
            "imageName": _IMAGE,
            "bootstrap": {"initdb": {"database": wanted.name, "owner": wanted.name, "dataChecksums": True}},
            "enableSuperuserAccess": True,
            "superuserSecret": {"name": superuser.metadata["name"]},
            "storage": {"size": f"{wanted.storage_gib}Gi", "storageClass": _STORAGE_CLASS},
            "certificates": {
                "serverTLSSecret": f"{_CLUSTER}-tls",
                "serverCASecret": f"{_CLUSTER}-tls",
            },
            "postgresql": {
                # Nobody enters without TLS, from the cluster neither.
                "pg_hba": ["hostnossl all all all reject"],
                "parameters": _parameters(wanted.connections),
            },
            "affinity": {"enablePodAntiAffinity": True, "topologyKey": "kubernetes.io/hostname"},
            "plugins": [
                {
                    "name": "barman-cloud.cloudnative-pg.io",
                    "isWALArchiver": True,
                    "parameters": {"barmanObjectName": _CLUSTER},
                }
            ],
        },
        opts=pulumi.ResourceOptions.merge(
            _after(opts, operator, certificate, store), pulumi.ResourceOptions(protect=True)
        ),
    )
    k8s.apiextensions.CustomResource(
        f"{prefix}-nightly-backup",
        api_version="postgresql.cnpg.io/v1",
        kind="ScheduledBackup",
        metadata={"name": f"{_CLUSTER}-nightly", "namespace": NAMESPACE},
        spec={
            # Seconds come first.
            "schedule": "0 0 1 * * *",
            "immediate": True,
            "method": "plugin",
            "pluginConfiguration": {"name": "barman-cloud.cloudnative-pg.io"},
            "backupOwnerReference": "self",
            "cluster": {"name": _CLUSTER},
        },
        opts=_after(opts, cluster),
    )
    return cluster


def _parameters(connections: int) -> dict[str, str]:
    """The server's limits (docs/decisions/0065); each takes a restart, which CloudNativePG sees to."""
    return {
        "max_connections": str(connections + _OWN_CONNECTIONS + _KEPT_CONNECTIONS + _RESERVED_CONNECTIONS),
        "reserved_connections": str(_KEPT_CONNECTIONS),
        "superuser_reserved_connections": str(_RESERVED_CONNECTIONS),
        "temp_file_limit": _TEMPORARY,
        "max_locks_per_transaction": _LOCKS,
        "max_notify_queue_pages": _NOTIFICATIONS,
        "authentication_timeout": _AUTHENTICATION,
    }


def _after(opts: pulumi.ResourceOptions, *resources: pulumi.Resource) -> pulumi.ResourceOptions:
    return pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=list(resources)))


def _secret(
    resource_name: str,
    name: str,
    data: dict[str, pulumi.Input[str]],
    kind: str,
    home: k8s.core.v1.Namespace,
    opts: pulumi.ResourceOptions,
) -> k8s.core.v1.Secret:
    return k8s.core.v1.Secret(
        resource_name,
        metadata=k8s.meta.v1.ObjectMetaArgs(name=name, namespace=home.metadata.name),
        type=kind,
        string_data=data,
        opts=opts,
    )
