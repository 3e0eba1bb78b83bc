"""The stack's configuration (`Pulumi.STACK.yaml`), read once into a typed model.

Every mistake is reported at once, with the key it stands under and what to write instead, before any
resource is registered. A connection without TLS is accepted only towards this very machine.
"""

import difflib
import ipaddress
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, TypeVar
from urllib.parse import urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate
from pulumi.runtime.config import CONFIG, get_config_env, is_config_secret
from pydantic import (
    Field,
    IPvAnyNetwork,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails, PydanticCustomError

from infra.errors import ConfigurationError
from infra.section import Section, look_up

NAMESPACE = "agent-platform"
"""Every key of ours in a stack's configuration starts with this and a colon."""

SWISS_ZONES = ("ch-gva-2", "ch-dk-2")
OTHER_ZONES = ("at-vie-1", "at-vie-2", "bg-sof-1", "de-fra-1", "de-muc-1", "hr-zag-1")
"""Exoscale's zones, as on <https://www.exoscale.com/datacenters/>."""

Name = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$")]
BucketName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$")]
Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9.:-]{1,253}$")]
Port = Annotated[int, Field(ge=1, le=65535)]
_IMAGE_NAME = r"[a-z0-9.:-]+(/[a-z0-9._-]+)+"
_IMAGE_TAG = r":[A-Za-z0-9_][A-Za-z0-9._-]*"
_IMAGE_DIGEST = r"@sha256:[0-9a-f]{64}"
PinnedImage = Annotated[str, Field(pattern=f"^{_IMAGE_NAME}({_IMAGE_TAG})?{_IMAGE_DIGEST}$")]
"""An image with its registry and its digest, so that it can never become another one."""
ContainerImage = Annotated[
    str, Field(pattern=f"^{_IMAGE_NAME}({_IMAGE_TAG}|({_IMAGE_TAG})?{_IMAGE_DIGEST})$")
]
"""An image with its registry, and its version, its digest, or both."""

Pem = Annotated[str, Field(pattern=r"^\s*-----BEGIN CERTIFICATE-----\n")]
_EMAIL = r"^[A-Za-z0-9._%+-]+@([A-Za-z0-9-]+\.)+[A-Za-z]{2,}$"
AbsolutePath = Annotated[str, Field(pattern=r"^/[A-Za-z0-9._/-]+$")]

Layer = Literal["cluster", "platform", "tenants"]
LAYERS: tuple[Layer, ...] = ("cluster", "platform", "tenants")
"""From the bottom to the top."""

_UNOWNED: Any = object()
"""In place of what configures a layer that another stack owns, which nothing in this stack reads."""


def _mistake(message: str) -> PydanticCustomError:
    """A rule of ours that does not hold; braces in `message` are text, not a template."""
    return PydanticCustomError("rule", "{message}", {"message": message})


def _is_loopback(host: str) -> bool:
    """Whether `host` is this very machine, so that nobody can listen on the way."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _tls_url(url: str) -> str:
    """An `https://` address, or an `http://` one that stays on this machine."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _mistake("is no address; write it like https://name:8200")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise _mistake(f"would send credentials to {parts.hostname} in the clear; write https://")
    return url.rstrip("/")


class NodePool(Section):
    """A group of equal worker nodes, kept on different hypervisors."""

    name: Name = Field(description="the pool's name: lower case letters, digits and hyphens")
    instance_type: str = Field(
        pattern=r"^[a-z0-9]+\.[a-z0-9-]+$", description="an Exoscale instance type, FAMILY.SIZE"
    )
    # <https://community.exoscale.com/documentation/compute/anti-affinity-groups/>
    size: int = Field(
        ge=1, le=8, description="1 to 8 nodes, as many as Exoscale keeps apart; for more, add a pool"
    )
    disk_gib: int = Field(ge=20, le=51200, description="each node's disk in GiB, 20 or more")


class Audit(Section):
    """Where SKS sends the Kubernetes audit log, with the secret `auditToken` as its bearer token."""

    endpoint: str = Field(description="the https:// address that receives the audit events")
    initial_backoff: str = Field(
        default="10s", pattern=r"^[0-9]+(ms|s|m)$", description="the first retry's delay, such as 10s"
    )

    _endpoint = field_validator("endpoint")(_tls_url)


class Kubeconfig(Section):
    """How long the program's own access to the cluster lives. SKS grants at most 30 days."""

    ttl_days: int = Field(default=30, ge=2, le=30, description="a life in days, 2 to 30")
    renew_before_days: int = Field(
        default=15, ge=1, description="days before the end of its life, fewer than ttlDays"
    )

    @field_validator("renew_before_days")
    @classmethod
    def _within_life(cls, days: int, info: ValidationInfo) -> int:
        if days >= info.data.get("ttl_days", days + 1):
            raise _mistake("would renew the kubeconfig on every run; choose fewer days than ttlDays")
        return days


class ClusterSettings(Section):
    """What we rent from Exoscale."""

    name: Name = Field(description="the SKS cluster's name: lower case letters, digits and hyphens")
    allow_zones_outside_switzerland: bool = Field(
        default=False, description="true only if customers' data may leave Switzerland"
    )
    zone: str = Field(description=f"an Exoscale zone; in Switzerland: {' or '.join(SWISS_ZONES)}")
    version: str = Field(
        pattern=r"^1\.\d{2}\.\d+$", description="a Kubernetes version SKS offers, such as 1.34.2"
    )
    cni: Literal["cilium", "calico"] = Field(default="cilium", description="cilium or calico")
    service_level: Literal["pro", "starter"] = Field(
        default="pro", description="pro (highly available control plane) or starter"
    )
    auto_upgrade: bool = Field(default=True, description="true to let SKS apply patch releases")
    audit: Audit | None = Field(default=None, description="a mapping with endpoint and initialBackoff")
    kubeconfig: Kubeconfig = Field(
        default_factory=Kubeconfig, description="a mapping of ttlDays, renewBeforeDays"
    )
    node_pools: tuple[NodePool, ...] = Field(min_length=1, description="a list of one or more node pools")

    @field_validator("zone")
    @classmethod
    def _in_switzerland(cls, zone: str, info: ValidationInfo) -> str:
        if zone in SWISS_ZONES:
            return zone
        if zone not in OTHER_ZONES:
            raise _mistake(f"is no zone of Exoscale; choose {' or '.join(SWISS_ZONES)}")
        if not info.data.get("allow_zones_outside_switzerland"):
            raise _mistake(
                f"would keep customers' data outside Switzerland; choose {' or '.join(SWISS_ZONES)}, or say "
                f"that this is meant with {NAMESPACE}:cluster.allowZonesOutsideSwitzerland: true"
            )
        return zone

    @field_validator("node_pools")
    @classmethod
    def _distinct(cls, pools: tuple[NodePool, ...]) -> tuple[NodePool, ...]:
        names = [pool.name for pool in pools]
        if len(set(names)) < len(names):
            raise _mistake("two pools of one name would be one pool; give every pool its own name")
        return pools


class ObjectStorageSettings(Section):
    """The three SOS buckets. Bucket names are unique across all of Exoscale."""

    artifacts_bucket: BucketName = Field(description="the bucket for tenants' files")
    backups_bucket: BucketName = Field(description="the bucket for backups of volumes and database")
    logs_bucket: BucketName = Field(description="the bucket for logs and archives")
    endpoint: str | None = Field(
        default=None, description="the S3 endpoint's https:// address; left out: that of the zone"
    )

    @field_validator("endpoint")
    @classmethod
    def _tls(cls, endpoint: str | None) -> str | None:
        return None if endpoint is None else _tls_url(endpoint)

    @field_validator("logs_bucket")
    @classmethod
    def _distinct(cls, logs: str, info: ValidationInfo) -> str:
        names = [logs, info.data.get("artifacts_bucket"), info.data.get("backups_bucket")]
        if len({name for name in names if name}) < len([name for name in names if name]):
            raise _mistake("the three buckets would mix what they hold; give each its own name")
        return logs


Given = TypeVar("Given", bound=Section)
Managed = TypeVar("Managed", bound=Section)


class Service(Section, Generic[Given, Managed]):
    """A shared service: somebody else runs it (`given`) or this program does (`managed`)."""

    given: Given | None = Field(default=None, description="a mapping that says where the running service is")
    managed: Managed | None = Field(
        default=None,
        validate_default=True,
        description="a mapping that says how to run the service; may be {}",
    )

    @property
    def choice(self) -> Given | Managed:
        """The one that was written."""
        chosen = self.given if self.given is not None else self.managed
        assert chosen is not None, "validation lets no service through that is neither"  # noqa: S101
        return chosen

    @field_validator("managed")
    @classmethod
    def _exactly_one(cls, managed: Managed | None, info: ValidationInfo) -> Managed | None:
        # A `given` that failed its own validation is absent from `data`, yet it was written.
        given = info.data.get("given", "written") is not None
        if given and managed is not None:
            raise _mistake("stands next to given: the service cannot be both; keep one of the two")
        if not given and managed is None:
            raise _mistake("is missing, and so is given: write one of the two")
        return managed


_CONNECTIONS = "how many connections tenants may hold on the server, all together"


class GivenDatabase(Section):
    """A running PostgreSQL 17 or newer; its password is the secret `databaseAdminPassword`."""

    host: Host = Field(description="PostgreSQL's host name or address")
    port: Port = Field(description="PostgreSQL's TCP port")
    name: Name = Field(description="the database that holds the tenants' schemas")
    admin_user: str = Field(min_length=1, description="a superuser, as who this program enters")
    connections: int = Field(default=80, ge=1, description=f"{_CONNECTIONS}: less than its max_connections")
    ssl_mode: Literal["verify-full", "verify-ca", "require", "disable"] = Field(
        description="verify-full, verify-ca, require, or (on loopback only) disable"
    )

    @field_validator("ssl_mode")
    @classmethod
    def _tls(cls, mode: str, info: ValidationInfo) -> str:
        if mode == "disable" and not _is_loopback(info.data.get("host", "localhost")):
            raise _mistake(f"would send data to {info.data['host']} in the clear; write verify-full")
        return mode


class ManagedDatabase(Section):
    """PostgreSQL run by CloudNativePG."""

    name: Name = Field(default="agents", description="the database that holds the tenants' schemas")
    instances: int = Field(default=3, ge=1, le=9, description="the number of servers, one of them primary")
    storage_gib: int = Field(default=50, ge=1, description="each server's volume in GiB")
    connections: int = Field(default=500, ge=50, le=5000, description=_CONNECTIONS)
    backup_retention_days: int = Field(default=30, ge=1, description="how many days back a restore can go")


class GivenRedis(Section):
    """A running Redis or Valkey; its password is the secret `redisPassword`."""

    host: Host = Field(description="the host name or address")
    port: Port = Field(description="the TCP port")
    tls: bool = Field(description="true, or (on loopback only) false")

    @field_validator("tls")
    @classmethod
    def _tls(cls, tls: bool, info: ValidationInfo) -> bool:
        if not tls and not _is_loopback(info.data.get("host", "localhost")):
            raise _mistake(f"would send the password to {info.data['host']} in the clear; write true")
        return tls


class ManagedRedis(Section):
    """Valkey from its own chart."""

    storage_gib: int = Field(
        default=1, ge=1, description="the volume in GiB that keeps activity over a restart"
    )


class GivenVault(Section):
    """A running Vault or OpenBao, unsealed; the operator's token is the secret `vaultToken`."""

    address: str = Field(description="Vault's https:// address")

    _address = field_validator("address")(_tls_url)


class ManagedVault(Section):
    """OpenBao from its own chart; the operator's token comes from the environment's VAULT_TOKEN."""

    replicas: int = Field(default=3, ge=1, le=7, description="the number of servers in the Raft cluster, odd")
    storage_gib: int = Field(default=10, ge=1, description="each server's volume in GiB")

    @field_validator("replicas")
    @classmethod
    def _odd(cls, replicas: int) -> int:
        if replicas % 2 == 0:
            raise _mistake(
                "an even number of servers survives no more failures than one fewer; write an odd one"
            )
        return replicas


class GivenKubeVirt(Section):
    """KubeVirt is installed already, with feature gates and placement as in `infra/platform/kubevirt.py`."""


class ManagedKubeVirt(Section):
    """KubeVirt from the manifest in `infra/platform/manifests`."""

    allow_emulation: bool = Field(
        default=False, description="true only for a trial on nodes without KVM: guests run many times slower"
    )


class GivenLonghorn(Section):
    """Longhorn 1.12 or newer is installed already in `longhorn-system`, with a backup target set, and with
    disks and tolerations as in `infra/platform/longhorn.py`."""


class ManagedLonghorn(Section):
    """Longhorn from its own chart, backing up to the backups bucket."""


class GivenMonitoring(Section):
    """A Prometheus, an Alertmanager and a Grafana run already; whoever runs them takes what the ConfigMaps of
    the namespace `monitoring` hold (`infra/platform/monitoring/stack.py`)."""


class Webhook(Section):
    """Alerts go to an address, the secret `alertWebhook`, as Alertmanager's JSON."""


class Heartbeat(Section):
    """An alert that always fires goes every five minutes to an address, the secret `alertHeartbeat`, of a
    service outside, which raises an alarm once it no longer comes."""


class Email(Section):
    """Alerts go to an e-mail address, through a server that speaks STARTTLS."""

    to: str = Field(pattern=_EMAIL, description="the e-mail address that alerts go to")
    sender: str = Field(pattern=_EMAIL, description="the e-mail address that alerts come from")
    server: str = Field(
        pattern=r"^[A-Za-z0-9.-]+:[0-9]{1,5}$",
        description="the mail server as HOST:PORT, such as smtp.example.ch:587",
    )
    username: str | None = Field(
        default=None,
        description="who logs in there, with the secret alertEmailPassword; left out: nobody does",
    )


class ManagedMonitoring(Section):
    """kube-prometheus-stack from its own chart."""

    retention_days: int = Field(default=30, ge=4, le=365, description="how long figures are kept, in days")
    storage_gib: int = Field(default=50, ge=5, description="Prometheus' volume in GiB")
    email: Email | None = Field(default=None, description="a mapping of to, sender, server and username")
    webhook: Webhook | None = Field(
        default=None,
        validate_default=True,
        description="a mapping, {}: its address is the secret alertWebhook",
    )

    heartbeat: Heartbeat | None = Field(
        default=None, description="a mapping, {}: its address is the secret alertHeartbeat"
    )

    @field_validator("webhook")
    @classmethod
    def _somebody(cls, webhook: Webhook | None, info: ValidationInfo) -> Webhook | None:
        # An `email` that failed its own validation is absent from `data`, yet it was written.
        if webhook is None and info.data.get("email", "written") is None:
            raise _mistake("is missing, and so is email: nobody would hear of an alert; write one of the two")
        return webhook


class GivenCertificate(Section):
    """A certificate from elsewhere: the secrets `gatewayCertificate`, with its chain, and `gatewayKey`."""

    authority: Pem | None = Field(
        default=None,
        description="the certificate (PEM) of the private authority that vouches for it, and for the name in "
        "agentsAddress, too; left out for a public one",
    )


class ManagedCertificate(Section):
    """A certificate of the platform's own authority, which browsers have to be told to trust."""


class GatewaySettings(Section):
    """The one way in to tenants' agents."""

    replicas: int = Field(
        default=2, ge=2, le=8, description="2 to 8 pods, no more than there are nodes: each is on another"
    )
    agents_address: str = Field(
        default="https://gateway.gateway.svc:8444",
        description="the https:// address under which agents reach it",
    )
    assertion_key: Literal["first", "second"] = Field(
        default="first",
        description="which of the two keys signs what lets the shared runtime into Vault: first or second",
    )
    certificate: Service[GivenCertificate, ManagedCertificate] = Field(
        description="a mapping: given or managed"
    )

    @field_validator("agents_address")
    @classmethod
    def _tls(cls, address: str) -> str:
        if urlsplit(address).scheme != "https":
            raise _mistake("would send agents' tokens in the clear; write an https:// address")
        return _tls_url(address)


class MachineKernel(Section):
    """The kernel on the machines' system disk, which a machine boots without a boot loader."""

    path: AbsolutePath = Field(description="the kernel's path in machineImage, such as /boot/vmlinuz")
    initrd: AbsolutePath = Field(description="the initial RAM disk's path there, such as /boot/initrd")
    arguments: str = Field(default="", description="the kernel's command line")


class Prices(Section):
    """List prices in CHF without VAT, from which the operators' page says what a tenant costs."""

    unit_hour: float = Field(
        ge=0, description="CHF an hour for a CPU with 4 GiB of memory on a node, such as 0.04667"
    )
    disk_gib_hour: float = Field(ge=0, description="CHF an hour for a GiB of a node's disk, such as 0.00014")
    chf_per_usd: float | None = Field(
        default=None, gt=0, description="CHF for a USD, in which tiers are sold; left out: no margin is shown"
    )


class Settings(Section):
    """The whole configuration of a stack; only what configures its own layers is there."""

    layers: tuple[Layer, ...] = Field(
        default=LAYERS, min_length=1, description=f"a list of this stack's layers, out of {', '.join(LAYERS)}"
    )
    base_stack: str = Field(
        default="",
        pattern=r"^[^/\s]+/[^/\s]+/[^/\s]+$",
        description="the stack that owns the layer below, written as organization/project/stack",
    )
    shard: str | None = Field(
        default=None, min_length=1, description="which of the roster's slices is this stack's"
    )
    domain: str = Field(
        default=_UNOWNED,
        pattern=r"^([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}$",
        description="the domain under which tenants are reached, such as agents.example.ch",
    )
    roster: str = Field(
        default="tenants.yaml", min_length=1, description="the roster, relative to the project's root"
    )
    # KubeVirt's own demonstration disk: Fedora with cloud-init, by tag. For customers, build one and name its
    # digest: only so do all nodes run the same, whatever becomes of the tag.
    machine_image: ContainerImage = Field(
        default="quay.io/kubevirt/fedora-cloud-container-disk-demo:v1.8.4",
        description="the machines' system disk, a container disk such as REGISTRY/agent@sha256:DIGEST",
    )
    runtime_image: ContainerImage = Field(
        default=_UNOWNED,
        description="the image of agents' containers, by digest: REGISTRY/agent-runtime@sha256:DIGEST",
    )
    gateway_image: ContainerImage = Field(
        default=_UNOWNED,
        description="the gateway's image, by digest: REGISTRY/agent-platform/gateway@sha256:DIGEST",
    )
    idle_suspender_image: ContainerImage = Field(
        default=_UNOWNED,
        description="the idle suspender's image, by digest: "
        "REGISTRY/agent-platform/idle-suspender@sha256:DIGEST",
    )
    machine_kernel: MachineKernel | None = Field(
        default=None, description="a mapping of path, initrd and arguments: the kernel on machineImage"
    )
    prices: Prices | None = Field(
        default=None, description="a mapping of unitHour and diskGibHour; left out: no cost is shown"
    )
    gateway: GatewaySettings = Field(
        default=_UNOWNED, description="a mapping with certificate, and replicas and agentsAddress if need be"
    )
    operator_networks: tuple[IPvAnyNetwork, ...] = Field(
        default=(),
        description="a list of networks (CIDR) from which engineers and CI reach PostgreSQL and Vault",
    )
    cluster: ClusterSettings = Field(
        default=_UNOWNED, description="a mapping with name, zone, version and nodePools"
    )
    object_storage: ObjectStorageSettings = Field(
        default=_UNOWNED, description="a mapping with the three buckets' names"
    )
    database: Service[GivenDatabase, ManagedDatabase] = Field(
        default=_UNOWNED, description="a mapping: given or managed"
    )
    redis: Service[GivenRedis, ManagedRedis] = Field(
        default=_UNOWNED, description="a mapping: given or managed"
    )
    vault: Service[GivenVault, ManagedVault] = Field(
        default=_UNOWNED, description="a mapping: given or managed"
    )
    kubevirt: Service[GivenKubeVirt, ManagedKubeVirt] = Field(
        default=_UNOWNED, description="a mapping: given or managed"
    )
    longhorn: Service[GivenLonghorn, ManagedLonghorn] = Field(
        default=_UNOWNED, description="a mapping: given or managed"
    )
    monitoring: Service[GivenMonitoring, ManagedMonitoring] = Field(
        default=_UNOWNED, description="a mapping: given or managed"
    )
    alert_webhook: SecretStr | None = Field(
        default=None, description="the https:// address that monitoring.managed.webhook tells of alerts"
    )
    alert_heartbeat: SecretStr | None = Field(
        default=None, description="the https:// address that monitoring.managed.heartbeat sends to"
    )
    alert_email_password: SecretStr | None = Field(
        default=None, description="the password of monitoring.managed.email.username"
    )
    database_admin_password: SecretStr | None = Field(
        default=None, description="the password of database.given"
    )
    redis_password: SecretStr | None = Field(default=None, description="the password of redis.given")
    vault_token: SecretStr | None = Field(default=None, description="the operator's token for vault.given")
    audit_token: SecretStr | None = Field(
        default=None, description="the bearer token that cluster.audit.endpoint expects"
    )
    gateway_certificate: SecretStr | None = Field(
        default=None, description="the certificate for gateway.certificate.given, and its chain (PEM)"
    )
    gateway_key: SecretStr | None = Field(default=None, description="its private key (PEM)")

    @field_validator("layers")
    @classmethod
    def _neighbours(cls, layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
        start = LAYERS.index(layers[0])
        if layers != LAYERS[start : start + len(layers)]:
            raise _mistake(
                "would leave a layer without the one it stands on; write neighbours, in the order "
                f"{', '.join(LAYERS)}"
            )
        return layers

    @field_validator("runtime_image", "gateway_image", "idle_suspender_image")
    @classmethod
    def _by_digest(cls, image: str) -> str:
        if "@sha256:" not in image:
            raise _mistake("may be another one tomorrow, for every tenant at once; name it by its digest")
        return image

    @field_validator("machine_image")
    @classmethod
    def _fixed(cls, image: str) -> str:
        if image.endswith(":latest"):
            raise _mistake("changes by itself, under a sleeping machine too; name a digest or a version")
        return image

    @field_validator("operator_networks")
    @classmethod
    def _not_the_world(cls, networks: tuple[IPvAnyNetwork, ...]) -> tuple[IPvAnyNetwork, ...]:
        if any(network.prefixlen == 0 for network in networks):
            raise _mistake(
                "would open PostgreSQL and Vault to the whole internet; name the networks you work from"
            )
        return networks

    def owns(self, layer: Layer) -> bool:
        """Whether this stack declares that layer."""
        return layer in self.layers

    @property
    def object_storage_endpoint(self) -> str:
        """The S3 endpoint of the zone's SOS, unless another one is configured."""
        return self.object_storage.endpoint or f"https://sos-{self.cluster.zone}.exo.io"


_SECRETS = {
    "databaseAdminPassword": "database.given",
    "redisPassword": "redis.given",
    "vaultToken": "vault.given",
    "auditToken": "cluster.audit",
    "gatewayCertificate": "gateway.certificate.given",
    "gatewayKey": "gateway.certificate.given",
    "alertWebhook": "monitoring.managed.webhook",
    "alertHeartbeat": "monitoring.managed.heartbeat",
    "alertEmailPassword": "monitoring.managed.email.username",
}
"""The secret keys, and the mapping that each belongs to when it is written."""

_OWNERS: Mapping[str, tuple[Layer, ...]] = {
    "cluster": ("cluster",),
    "objectStorage": ("cluster",),
    "operatorNetworks": ("cluster", "platform"),
    **dict.fromkeys(
        (
            *(
                "domain",
                "machineImage",
                "machineKernel",
                "runtimeImage",
                "gatewayImage",
                "idleSuspenderImage",
                "prices",
            ),
            *("gateway", "database", "redis", "vault", "kubevirt", "longhorn", "monitoring"),
        ),
        ("platform",),
    ),
}
"""The layers that a key configures."""

_TEXTS = {
    *("domain", "roster", "baseStack", "shard"),
    *("machineImage", "runtimeImage", "gatewayImage", "idleSuspenderImage"),
    *_SECRETS,
}
"""The keys whose value is text as it stands; all others hold YAML that the engine hands over as JSON."""


def load_settings() -> Settings:
    """Read the stack's configuration.

    Raises:
        ConfigurationError: naming every mistake in it.
    """
    written = {
        key.removeprefix(f"{NAMESPACE}:"): value
        for key, value in {**get_config_env(), **CONFIG.get()}.items()
        if key.startswith(f"{NAMESPACE}:")
    }
    data = {key: value if key in _TEXTS else _parsed(value) for key, value in written.items()}
    mistakes = list(_rules_across_keys(data))
    try:
        # JSON, because only there does strict validation take a list for a tuple.
        settings = Settings.model_validate_json(json.dumps(data))
    except ValidationError as error:
        details = [detail for detail in error.errors(include_url=False) if not _is_echo(detail)]
        mistakes = [*(_explain(detail) for detail in details), *mistakes]
    if mistakes:
        count = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        lines = "\n".join(f"  - {NAMESPACE}:{mistake}" for mistake in mistakes)
        raise ConfigurationError(f"The stack's configuration has {count}; nothing was changed.\n{lines}")
    return settings


def _parsed(value: str) -> Any:
    """What the engine hands over as JSON; a bare word stays text, for validation to refuse by its key."""
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def _rules_across_keys(data: Mapping[str, Any]) -> Iterator[str]:
    """Rules between top-level keys, checked on what was written so that no other mistake hides them."""
    layers = data.get("layers", list(LAYERS))
    if isinstance(layers, list) and layers and all(layer in LAYERS for layer in layers):
        yield from _rules_of_layers(data, layers)
    for secret, section in _SECRETS.items():
        needed = _has(data, section)
        remedy = f"run: pulumi config set --secret {NAMESPACE}:{secret}"
        if needed and not data.get(secret):
            yield f"{secret}: is missing, so {section} would let nobody in; {remedy}"
        elif secret in data and not is_config_secret(f"{NAMESPACE}:{secret}"):
            yield f"{secret}: stands in the file in the clear; change it at the service, then {remedy}"
        elif secret in data and not needed:
            yield f"{secret}: is used by nothing, since there is no {section}; remove it"
    yield from _rules_of_certificate(data.get("gatewayCertificate"), data.get("gatewayKey"))
    managed = [service for service in ("database", "redis", "vault") if _has(data, f"{service}.managed")]
    if managed and not data.get("operatorNetworks"):
        yield (
            f"operatorNetworks: is missing, so nobody could reach the {' and the '.join(managed)} managed "
            "here; list the networks (CIDR) that engineers and CI work from"
        )


def _rules_of_certificate(chain: Any, key: Any) -> Iterator[str]:
    """Rules for the gateway's certificate and its key, if both are given."""
    if not chain or not key:
        return
    unread = "so the gateway could show none and nobody would connect"
    try:
        certificate = load_pem_x509_certificate(str(chain).encode())
    except ValueError:
        yield f"gatewayCertificate: is no certificate in PEM, {unread}; write it first, its chain after it"
        return
    try:
        private = load_pem_private_key(str(key).encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        yield f"gatewayKey: is no private key in PEM without a password, {unread}; write the right one"
        return
    if private.public_key() != certificate.public_key():
        yield f"gatewayKey: does not fit gatewayCertificate, {unread}; write the key that it was issued for"
    if certificate.not_valid_after_utc < datetime.now(UTC):
        expired = certificate.not_valid_after_utc.date()
        yield f"gatewayCertificate: expired on {expired}, so every client would refuse it; write the new one"


def _rules_of_layers(data: Mapping[str, Any], layers: list[Layer]) -> Iterator[str]:
    """What a stack with those layers has to have, and what it has no use for."""
    unused = "is used by nothing, since this stack"
    for key, owners in _OWNERS.items():
        field = next(field for field in Settings.model_fields.values() if field.alias == key)
        owned = any(layer in layers for layer in owners)
        if owned and key not in data and field.default is _UNOWNED:
            yield f"{key}: is missing; write {field.description}"
        elif key in data and not owned:
            yield f"{key}: {unused} does not own the {' or the '.join(owners)}; remove it"
    below = LAYERS[: LAYERS.index(layers[0])]
    if below and "baseStack" not in data:
        description = Settings.model_fields["base_stack"].description
        yield f"baseStack: is missing, so the {below[-1]} would be found nowhere; write {description}"
    if not below and "baseStack" in data:
        yield f"baseStack: {unused} owns the {LAYERS[0]} itself; remove it"
    if "shard" in data and layers != ["tenants"]:
        yield f"shard: {unused} owns more than tenants, or none; write `layers: [tenants]`, or remove it"


def _has(data: Mapping[str, Any], path: str) -> bool:
    """Whether something is written under that path of keys."""
    written: Any = data
    for key in path.split("."):
        written = written.get(key) if isinstance(written, Mapping) else None
    return written is not None


def _is_echo(detail: ErrorDetails) -> bool:
    """Whether a list is called too short only because its entries, told one by one, are wrong."""
    return detail["type"] == "too_short" and bool(detail["input"])


def _explain(detail: ErrorDetails) -> str:
    """One mistake: its key, what is wrong, what to write."""
    path = list(detail["loc"])
    key = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")
    owner, description = look_up(Settings, tuple(path))
    if detail["type"] == "extra_forbidden":
        known = [field.alias or name for name, field in owner.model_fields.items()]
        close = difflib.get_close_matches(to_camel(str(path[-1])), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known) or 'no key at all'}"
        return f"{key}: is no key of the configuration; {hint}"
    if detail["type"] == "missing":
        return f"{key}: is missing; write {description}"
    if detail["type"] == "rule":
        return f"{key}: {detail['msg']}"
    scalar = isinstance(detail["input"], str | int | float) and key not in _SECRETS
    found = f" {json.dumps(detail['input'])}" if scalar else ""
    # A pattern says nothing to a reader; the description does.
    why = "" if detail["type"] == "string_pattern_mismatch" else f" ({detail['msg'].lower()})"
    return f"{key}:{found} does not fit{why}; write {description}"
