"""The SKS cluster, its nodes, its network and its buckets."""

import pulumi
import pulumiverse_exoscale as exoscale

from infra.cluster.access import kubeconfig
from infra.cluster.foundations import Foundations, Nodes
from infra.cluster.network import node_security_group
from infra.cluster.object_storage import object_storage
from infra.settings import ClusterSettings, NodePool, Settings


class Cluster(pulumi.ComponentResource):
    """What we rent from Exoscale, ready to be built upon.

    Not managed here: the account, its quotas, DNS, and the API key that the Exoscale provider signs with
    (`EXOSCALE_API_KEY`, `EXOSCALE_API_SECRET`).
    """

    foundations: Foundations

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
        access = kubeconfig(
            name,
            cluster=cluster.id,
            zone=wanted.zone,
            days=wanted.kubeconfig.ttl_days,
            renewal_days=wanted.kubeconfig.renew_before_days,
            opts=child,
        )
        # Nothing that is installed on the cluster can run before there are nodes.
        after_nodes = pulumi.ResourceOptions(parent=self, depends_on=pools)
        storage = object_storage(settings, child, name)
        self.foundations = Foundations(
            kubernetes=access.provider(name, after_nodes),
            api=access.api(),
            nodes=Nodes(
                cluster_id=cluster.id,
                cluster_name=wanted.name,
                zone=wanted.zone,
                security_group_id=security_group.id,
                private_network_id=network.id,
                count=sum(pool.size for pool in wanted.node_pools),
                shared_pool=wanted.node_pools[0].name,
                shared_instance_pool_id=pools[0].instance_pool_id,
            ),
            object_storage=storage,
        )
        self.register_outputs(
            {
                "sks": cluster.id,
                "kubernetes": self.foundations.api.server,
                "artifacts": storage.artifacts,
                "backups": storage.backups,
                "logs": storage.logs,
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
