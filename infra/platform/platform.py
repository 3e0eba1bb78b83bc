"""The platform: the services all tenants share, each either run by us or given."""

from dataclasses import replace
from functools import cached_property

import pulumi
from pydantic import SecretStr

from infra.cluster.foundations import Foundations
from infra.platform.accounting import declare_accounting
from infra.platform.assertions import declare_assertions
from infra.platform.certificates import Certificates
from infra.platform.database import Database, given_database, managed_database
from infra.platform.database_limits import database_limits
from infra.platform.gateway import declare_gateway
from infra.platform.idle_suspension import idle_suspender
from infra.platform.kubevirt import install_kubevirt
from infra.platform.log_retention import declare_log_retention
from infra.platform.longhorn import install_longhorn, workspace_classes
from infra.platform.monitoring.drill import declare_drill_record
from infra.platform.monitoring.exporter import declare_exporter
from infra.platform.monitoring.stack import declare_monitoring
from infra.platform.namespaces import namespace
from infra.platform.network_policies import agent_openings
from infra.platform.redis import Redis, Users, given_redis, managed_redis
from infra.platform.registrar import registrar_rights
from infra.platform.services import Services
from infra.platform.shared_runtime import shared_runtime
from infra.platform.vault import Vault, given_vault, managed_vault
from infra.settings import GivenDatabase, GivenKubeVirt, GivenRedis, GivenVault, Settings

_SYSTEM = "platform-system"
"""The namespace of what serves the platform itself."""


class Platform(pulumi.ComponentResource):
    """Everything between the bare cluster and the tenants."""

    services: Services

    def __init__(
        self,
        name: str,
        settings: Settings,
        foundations: Foundations,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Declare the shared services on `foundations`, given or managed as `settings` says."""
        super().__init__("agent-platform:platform:Platform", name, None, opts)
        self._name = name
        self._settings = settings
        self._foundations = foundations
        self._opts = pulumi.ResourceOptions(parent=self, provider=foundations.kubernetes)
        home = namespace(f"{name}-system", _SYSTEM, "restricted", self._opts)
        self._in_system = pulumi.ResourceOptions.merge(self._opts, pulumi.ResourceOptions(depends_on=[home]))

        longhorn = self._longhorn()
        classes = workspace_classes(
            f"{name}-storage",
            foundations.nodes.count,
            pulumi.ResourceOptions.merge(self._opts, pulumi.ResourceOptions(depends_on=longhorn)),
        )
        database = self._database()
        vault = self._vault(database)
        assertions = declare_assertions(
            f"{name}-assertions", settings.gateway.assertion_key, vault, self._opts
        )
        vault = replace(vault, furnished=[*vault.furnished, assertions.accepted])
        redis, users = self._redis()
        gateway, gateways_home = declare_gateway(
            f"{name}-gateway",
            settings,
            redis=redis,
            users=users,
            vault=vault,
            assertions=assertions,
            certificates=lambda: self._certificates,
            nodes=foundations.nodes,
            opts=self._opts,
        )
        self.services = Services(
            kubernetes=foundations.kubernetes,
            api=foundations.api,
            nodes=foundations.nodes,
            object_storage=foundations.object_storage,
            database=database,
            redis=redis,
            vault=vault,
            domain=settings.domain,
            gateway=gateway,
            storage_class=classes.workspace,
            encrypted_storage_class=classes.encrypted,
            machine_image=settings.machine_image,
            machine_kernel=settings.machine_kernel.model_dump() if settings.machine_kernel else None,
            prices=settings.prices.model_dump() if settings.prices else None,
            runtime_image=settings.runtime_image,
            ready=[*self._kubevirt(), *classes.declared, gateways_home],
        )
        declare_monitoring(
            f"{name}-monitoring",
            settings,
            vault=vault,
            storage=foundations.object_storage,
            cluster_name=foundations.nodes.cluster_name,
            opts=self._opts,
        )
        # The namespaces in which it is given rights.
        read = pulumi.ResourceOptions(depends_on=[gateways_home, *longhorn])
        declare_exporter(
            f"{name}-exporter",
            _SYSTEM,
            settings.gateway_image,
            redis=redis,
            users=users,
            database=database,
            opts=pulumi.ResourceOptions.merge(self._in_system, read),
        )
        declare_drill_record(f"{name}-drill", pulumi.ResourceOptions.merge(self._opts, read))
        declare_accounting(
            f"{name}-accounting",
            _SYSTEM,
            settings.gateway_image,
            cluster_name=foundations.nodes.cluster_name,
            redis=redis,
            users=users,
            database=database,
            storage=foundations.object_storage,
            opts=pulumi.ResourceOptions.merge(self._in_system, read),
        )
        declare_log_retention(
            f"{name}-log-retention",
            _SYSTEM,
            settings.gateway_image,
            cluster_name=foundations.nodes.cluster_name,
            storage=foundations.object_storage,
            opts=pulumi.ResourceOptions.merge(self._in_system, read),
        )
        idle_suspender(
            f"{name}-idle-suspender", _SYSTEM, settings.idle_suspender_image, redis, users, self._in_system
        )
        database_limits(
            f"{name}-limits",
            _SYSTEM,
            settings.idle_suspender_image,
            database,
            self._in_system,
        )
        openings = agent_openings(
            vault.destination, database.destination, foundations.object_storage.endpoint
        )
        shared_runtime(
            f"{name}-runtime", settings.runtime_image, vault, gateway, database, openings, self._opts
        )
        after_gateway = pulumi.ResourceOptions(depends_on=[gateways_home])
        registrar_rights(f"{name}-registrar", pulumi.ResourceOptions.merge(self._opts, after_gateway))

        self.register_outputs(
            {
                "database": pulumi.Output.concat(database.host, f":{database.port}"),
                "vault": vault.address,
                "redis": f"{redis.host}:{redis.port}",
                "storageClass": classes.workspace,
            }
        )

    @cached_property
    def _certificates(self) -> Certificates:
        """Installed for the first managed service that needs a certificate."""
        return Certificates(f"{self._name}-certificates", _SYSTEM, self._in_system)

    def _kubevirt(self) -> list[pulumi.Resource]:
        chosen = self._settings.kubevirt.choice
        if isinstance(chosen, GivenKubeVirt):
            return []
        return [install_kubevirt(f"{self._name}-kubevirt", chosen, self._opts)]

    def _longhorn(self) -> list[pulumi.Resource]:
        if self._settings.longhorn.given:
            return []
        storage, cluster_name = self._foundations.object_storage, self._foundations.nodes.cluster_name
        return [install_longhorn(f"{self._name}-longhorn", cluster_name, storage, self._opts)]

    def _database(self) -> Database:
        prefix, chosen = f"{self._name}-database", self._settings.database.choice
        if isinstance(chosen, GivenDatabase):
            password = _secret(self._settings.database_admin_password)
            return given_database(prefix, chosen, password, self._opts)
        return managed_database(
            prefix,
            self._settings,
            chosen,
            cluster_name=self._foundations.nodes.cluster_name,
            operators=_SYSTEM,
            certificates=self._certificates,
            storage=self._foundations.object_storage,
            instance_pool=self._foundations.nodes.shared_instance_pool_id,
            opts=self._in_system,
        )

    def _redis(self) -> tuple[Redis, Users]:
        prefix, chosen = f"{self._name}-redis", self._settings.redis.choice
        if isinstance(chosen, GivenRedis):
            return given_redis(prefix, chosen, _secret(self._settings.redis_password), self._opts)
        return managed_redis(
            prefix,
            chosen,
            certificates=self._certificates,
            networks=[str(network) for network in self._settings.operator_networks],
            instance_pool=self._foundations.nodes.shared_instance_pool_id,
            opts=self._opts,
        )

    def _vault(self, database: Database) -> Vault:
        prefix, chosen = f"{self._name}-vault", self._settings.vault.choice
        if isinstance(chosen, GivenVault):
            return given_vault(
                prefix,
                chosen,
                _secret(self._settings.vault_token),
                api=self._foundations.api,
                namespace=_SYSTEM,
                database=database,
                opts=self._in_system,
            )
        return managed_vault(
            prefix,
            self._settings,
            chosen,
            certificates=self._certificates,
            database=database,
            cluster_name=self._foundations.nodes.cluster_name,
            storage=self._foundations.object_storage,
            instance_pool=self._foundations.nodes.shared_instance_pool_id,
            opts=self._opts,
        )


def _secret(value: SecretStr | None) -> pulumi.Output[str]:
    """A secret of the configuration; validation has seen to it that a given service has one."""
    return pulumi.Output.secret(value.get_secret_value() if value else "")
