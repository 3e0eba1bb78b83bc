"""The SKS cluster, its nodes, its network and this program's way into its API."""

import base64
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
import pulumiverse_exoscale as exoscale
import yaml

from infra.cluster.network import node_security_group
from infra.cluster.object_storage import object_storage
from infra.settings import ClusterSettings, NodePool, Settings

_DAY = 24 * 60 * 60


@dataclass(frozen=True, kw_only=True)
class KubernetesApi:
    """The Kubernetes API as it is reached from outside the cluster."""

    server: pulumi.Output[str]
    """`https://…`"""
    certificate_authority: pulumi.Output[str]
    """PEM."""
    cluster: pulumi.Output[str]
    """The SKS cluster's id."""
    zone: str


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """What a tenant's own nodes share with all others, and which of those stand behind load balancers."""

    cluster_id: pulumi.Output[str]
    cluster_name: str
    zone: str
    security_group_id: pulumi.Output[str]
    private_network_id: pulumi.Output[str]
    shared_pool: str
    """The first of the stack's own node pools, by name."""
    shared_instance_pool_id: pulumi.Output[str]
    """The same pool, as load balancers know it."""


class Cluster(pulumi.ComponentResource):
    """What we rent from Exoscale, ready to be built upon.

    Not managed here: the account, its quotas, DNS, and the API key that the Exoscale provider signs with
    (`EXOSCALE_API_KEY`, `EXOSCALE_API_SECRET`).
    """

    def __init__(self, name: str, settings: Settings, opts: pulumi.ResourceOptions | None = None) -> None:
        """Declare cluster, node pools, network and buckets; cluster and buckets are protected."""
        super().__init__("agent-platform:cluster:Cluster", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        wanted = settings.cluster

        cluster = exoscale.SksCluster(
            f"{name}-sks",
            name=wanted.name,
            zone=wanted.zone,
            version=wanted.version,
            cni=wanted.cni,
            service_level=wanted.service_level,
            auto_upgrade=wanted.auto_upgrade,
            exoscale_ccm=True,
            exoscale_csi=True,
            metrics_server=True,
            audit=_audit(settings),
            description=f"Agent platform, {pulumi.get_stack()}",
            # A patch release that SKS installed by itself is no reason to change anything back.
            opts=pulumi.ResourceOptions(
                parent=self, protect=True, ignore_changes=["version"] if wanted.auto_upgrade else None
            ),
        )
        security_group = node_security_group(
            name,
            group_name=f"{wanted.name}-nodes",
            cni=wanted.cni,
            operator_networks=[str(network) for network in settings.operator_networks],
            opts=child,
        )
        network = exoscale.PrivateNetwork(
            f"{name}-network",
            name=f"{wanted.name}-nodes",
            description="Traffic between the nodes",
            zone=wanted.zone,
            start_ip="10.100.0.10",
            end_ip="10.100.0.250",
            netmask="255.255.255.0",
            opts=child,
        )
        pools = [
            self._node_pool(f"{name}-{pool.name}", wanted, pool, cluster, security_group, network)
            for pool in wanted.node_pools
        ]
        kubeconfig = exoscale.SksKubeconfig(
            f"{name}-kubeconfig",
            cluster_id=cluster.id,
            zone=wanted.zone,
            user="agent-platform",
            groups=["system:masters"],
            ttl_seconds=wanted.kubeconfig.ttl_days * _DAY,
            early_renewal_seconds=wanted.kubeconfig.renew_before_days * _DAY,
            opts=child,
        )

        self.kubernetes = k8s.Provider(
            f"{name}-kubernetes",
            kubeconfig=kubeconfig.kubeconfig,
            # The cluster's identity, not its credentials: a renewed kubeconfig must not replace every object.
            cluster_identifier=cluster.id,
            enable_server_side_apply=True,
            # A cut-off update has made objects that it could not write down; the next one takes them over.
            upsert_existing_objects=True,
            # Replaced, a Secret would be missing for a while under the name that others look for.
            enable_secret_mutable=True,
            enable_config_map_mutable=True,
            # An API that does not answer is a reason to stop, never to forget what runs there.
            delete_unreachable=False,
            # Nothing that is installed on the cluster can run before there are nodes.
            opts=pulumi.ResourceOptions(parent=self, depends_on=pools),
        )
        self.api = KubernetesApi(
            server=_from_kubeconfig(kubeconfig.kubeconfig, "server"),
            certificate_authority=_from_kubeconfig(kubeconfig.kubeconfig, "certificate-authority-data").apply(
                lambda encoded: base64.b64decode(encoded).decode()
            ),
            cluster=cluster.id,
            zone=wanted.zone,
        )
        self.nodes = Nodes(
            cluster_id=cluster.id,
            cluster_name=wanted.name,
            zone=wanted.zone,
            security_group_id=security_group.id,
            private_network_id=network.id,
            shared_pool=wanted.node_pools[0].name,
            shared_instance_pool_id=pools[0].instance_pool_id,
        )
        self.object_storage = object_storage(settings, child, name)
        self.register_outputs(
            {
                "sks": cluster.id,
                "kubernetes": self.api.server,
                "artifacts": self.object_storage.artifacts,
                "backups": self.object_storage.backups,
                "logs": self.object_storage.logs,
            }
        )

    def _node_pool(
        self,
        name: str,
        wanted: ClusterSettings,
        pool: NodePool,
        cluster: exoscale.SksCluster,
        security_group: exoscale.SecurityGroup,
        network: exoscale.PrivateNetwork,
    ) -> exoscale.SksNodepool:
        """Declare one pool, whose nodes Exoscale keeps on different hypervisors."""
        child = pulumi.ResourceOptions(parent=self)
        apart = exoscale.AntiAffinityGroup(f"{name}-apart", name=f"{wanted.name}-{pool.name}", opts=child)
        return exoscale.SksNodepool(
            name,
            name=pool.name,
            cluster_id=cluster.id,
            zone=wanted.zone,
            instance_type=pool.instance_type,
            instance_prefix=pool.name,
            size=pool.size,
            disk_size=pool.disk_gib,
            anti_affinity_group_ids=[apart.id],
            security_group_ids=[security_group.id],
            private_network_ids=[network.id],
            # The second one lets Longhorn keep volumes here (infra/platform/longhorn.py).
            labels={"pool": pool.name, "node.longhorn.io/create-default-disk": "true"},
            opts=child,
        )


def _audit(settings: Settings) -> exoscale.SksClusterAuditArgs | None:
    wanted, token = settings.cluster.audit, settings.audit_token
    if wanted is None or token is None:
        return None
    return exoscale.SksClusterAuditArgs(
        enabled=True,
        endpoint=wanted.endpoint,
        bearer_token=pulumi.Output.secret(token.get_secret_value()),
        initial_backoff=wanted.initial_backoff,
    )


def _from_kubeconfig(kubeconfig: pulumi.Output[str], key: str) -> pulumi.Output[str]:
    """A field of the kubeconfig's only cluster: address and CA are no secrets, though they come in one."""

    def field(text: str) -> str:
        document: dict[str, Any] = yaml.safe_load(text)
        return str(document["clusters"][0]["cluster"][key])

    return pulumi.Output.unsecret(kubeconfig.apply(field))
