"""The platform: the services all tenants share, each either run by us or given."""

from functools import cached_property

import pulumi
import pulumi_kubernetes as k8s
from pydantic import SecretStr

from infra.cluster.cluster import Cluster, KubernetesApi
from infra.platform.certificates import Certificates
from infra.platform.database import Database, given_database, managed_database
from infra.platform.gateway import gateway_place
from infra.platform.idle_suspension import idle_suspension_place
from infra.platform.kubevirt import install_kubevirt
from infra.platform.longhorn import install_longhorn, workspace_classes
from infra.platform.monitoring import monitoring_place
from infra.platform.namespaces import namespace
from infra.platform.network_policies import agent_openings
from infra.platform.redis import Redis, given_redis, managed_redis
from infra.platform.registrar import registrar_rights
from infra.platform.shared_runtime import shared_runtime
from infra.platform.vault import Vault, given_vault, managed_vault
from infra.settings import GivenDatabase, GivenKubeVirt, GivenRedis, GivenVault, Settings


class Platform(pulumi.ComponentResource):
    """Everything between the bare cluster and the tenants."""

    kubernetes: k8s.Provider
    database: Database
    api: KubernetesApi
    redis: Redis
    vault: Vault
    storage_class: str
    """For workspaces."""
    encrypted_storage_class: str
    """For workspaces that are encrypted under a key of their own."""
    machine_image: str
    """The system disk of machines whose entry names no other."""
    runtime_image: str
    """The image of agents' containers."""
    ready: list[pulumi.Resource]
    """What a machine and its volume have to wait for: KubeVirt, Longhorn and its storage classes."""

    def __init__(
        self, name: str, settings: Settings, cluster: Cluster, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        """Declare the shared services on `cluster`, given or managed as `settings` says."""
        super().__init__("agent-platform:platform:Platform", name, None, opts)
        self.kubernetes = cluster.kubernetes
        self.api = cluster.api
        self.object_storage = cluster.object_storage
        self.nodes = cluster.nodes
        self.machine_image = settings.machine_image
        self.runtime_image = settings.runtime_image
        self._name = name
        self._settings = settings
        self._cluster = cluster
        self._opts = pulumi.ResourceOptions(parent=self, provider=cluster.kubernetes)
        self._system = namespace(
            f"{name}-system", "platform-system", "restricted", self._opts
        ).metadata.apply(lambda metadata: str(metadata.name))

        longhorn = self._longhorn()
        nodes = sum(pool.size for pool in settings.cluster.node_pools)
        classes = workspace_classes(
            f"{name}-storage",
            nodes,
            pulumi.ResourceOptions.merge(self._opts, pulumi.ResourceOptions(depends_on=longhorn)),
        )
        self.storage_class, self.encrypted_storage_class = classes.workspace, classes.encrypted
        self.ready = [*self._kubevirt(), *classes.declared]
        self.database = self._database()
        self.redis = self._redis()
        self.vault = self._vault()
        monitoring_place(f"{name}-monitoring", self._opts)
        gateway_place(f"{name}-gateway", self._opts)
        idle_suspension_place(f"{name}-idle-suspender", self._system, self._opts)
        openings = agent_openings(
            self.vault.destination, self.database.destination, self.object_storage.endpoint
        )
        shared_runtime(f"{name}-runtime", self.runtime_image, self.vault, openings, self._opts)
        registrar_rights(f"{name}-registrar", self._opts)

        self.register_outputs(
            {
                "database": pulumi.Output.concat(self.database.host, f":{self.database.port}"),
                "vault": self.vault.address,
                "redis": f"{self.redis.host}:{self.redis.port}",
                "storageClass": self.storage_class,
            }
        )

    @cached_property
    def _certificates(self) -> Certificates:
        """Installed for the first managed service that needs a certificate."""
        return Certificates(f"{self._name}-certificates", self._system, self._opts)

    def _kubevirt(self) -> list[pulumi.Resource]:
        chosen = self._settings.kubevirt.choice
        if isinstance(chosen, GivenKubeVirt):
            return []
        return [install_kubevirt(f"{self._name}-kubevirt", chosen, self._opts)]

    def _longhorn(self) -> list[pulumi.Resource]:
        if self._settings.longhorn.given:
            return []
        storage, stack_name = self._cluster.object_storage, self._settings.cluster.name
        return [install_longhorn(f"{self._name}-longhorn", stack_name, storage, self._opts)]

    def _database(self) -> Database:
        prefix, chosen = f"{self._name}-database", self._settings.database.choice
        if isinstance(chosen, GivenDatabase):
            password = _secret(self._settings.database_admin_password)
            return given_database(prefix, chosen, password, self._opts)
        return managed_database(
            prefix,
            self._settings,
            chosen,
            operators=self._system,
            certificates=self._certificates,
            storage=self._cluster.object_storage,
            instance_pool=self._cluster.nodes.shared_instance_pool_id,
            opts=self._opts,
        )

    def _redis(self) -> Redis:
        chosen = self._settings.redis.choice
        if isinstance(chosen, GivenRedis):
            return given_redis(chosen, _secret(self._settings.redis_password))
        return managed_redis(
            f"{self._name}-redis",
            chosen,
            certificates=self._certificates,
            networks=[str(network) for network in self._settings.operator_networks],
            instance_pool=self._cluster.nodes.shared_instance_pool_id,
            opts=self._opts,
        )

    def _vault(self) -> Vault:
        prefix, chosen = f"{self._name}-vault", self._settings.vault.choice
        if isinstance(chosen, GivenVault):
            return given_vault(
                prefix,
                chosen,
                _secret(self._settings.vault_token),
                api=self._cluster.api,
                namespace=self._system,
                database=self.database,
                opts=self._opts,
            )
        return managed_vault(
            prefix,
            self._settings,
            chosen,
            certificates=self._certificates,
            database=self.database,
            instance_pool=self._cluster.nodes.shared_instance_pool_id,
            opts=self._opts,
        )


def _secret(value: SecretStr | None) -> pulumi.Output[str]:
    """A secret of the configuration; validation has seen to it that a given service has one."""
    return pulumi.Output.secret(value.get_secret_value() if value else "")
