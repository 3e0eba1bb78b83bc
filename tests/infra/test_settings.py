"""Every mistake in the stack's configuration is told at once, by its key, with what to write instead."""

from typing import Any

import pytest

from infra.errors import ConfigurationError
from infra.settings import GivenDatabase, ManagedDatabase, Settings, load_settings
from tests.infra.recording import SECRETS, certificate, configure, local_stack, stack


def load(values: dict[str, Any], secrets: dict[str, str] | None = None) -> Settings:
    configure(values, secrets)
    return load_settings()


def mistakes(values: dict[str, Any], secrets: dict[str, str] | None = None) -> list[str]:
    """The lines of the one message, without the namespace."""
    with pytest.raises(ConfigurationError) as error:
        load(values, secrets)
    head, *lines = str(error.value).splitlines()
    assert "nothing was changed" in head
    assert all(line.startswith("  - agent-platform:") for line in lines)
    return [line.removeprefix("  - agent-platform:") for line in lines]


def test_production_is_complete_without_a_secret() -> None:
    settings = load(stack("prod"))
    assert settings.cluster.zone == "ch-gva-2"
    assert sum(pool.size for pool in settings.cluster.node_pools) == 3
    assert isinstance(settings.database.choice, ManagedDatabase)
    services = (settings.database, settings.redis, settings.vault, settings.kubevirt, settings.longhorn)
    assert all(service.managed and not service.given for service in services)
    assert settings.object_storage_endpoint == "https://sos-ch-gva-2.exo.io"


def test_the_local_stack_is_complete_with_what_up_adds() -> None:
    settings = load(local_stack(), SECRETS)
    assert isinstance(settings.database.choice, GivenDatabase)
    assert settings.database_admin_password
    assert settings.database_admin_password.get_secret_value() == "db-secret"
    assert settings.object_storage_endpoint == "http://127.0.0.1:8333"
    assert settings.roster == "tenants.yaml"


def test_secrets_do_not_show_in_a_representation() -> None:
    assert not [secret for secret in SECRETS.values() if secret in repr(load(local_stack(), SECRETS))]


def test_an_empty_configuration_names_every_missing_key() -> None:
    found = mistakes({})
    for key in ("domain", "cluster", "objectStorage", "database", "redis", "vault", "kubevirt", "longhorn"):
        assert [line for line in found if line.startswith(f"{key}: is missing; write ")], key


def test_all_mistakes_are_told_at_once() -> None:
    values = stack("prod")
    values["domain"] = "no domain"
    values["cluster"]["nodePools"][0]["size"] = "three"
    values["database"] = {}
    values["rooster"] = "tenants.yaml"
    found = mistakes(values)
    assert [line.split(":")[0] for line in found] == [
        "domain",
        "cluster.nodePools[0].size",
        "database.managed",
        "rooster",
    ]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("clustr", {}, "clustr: is no key of the configuration; did you mean cluster?"),
        ("vaultTokn", "x", "vaultTokn: is no key of the configuration; did you mean vaultToken?"),
        ("domain", "", 'domain: "" does not fit; write the domain under which tenants are reached'),
        ("domain", 5, "domain"),
        ("roster", "", 'roster: "" does not fit'),
        ("cluster", "large", 'cluster: "large" does not fit (input should be an object); write a mapping'),
        ("cluster", [], "cluster: does not fit (input should be an object); write a mapping"),
        ("database", {"given": {}, "managed": {}}, "database.managed: stands next to given"),
        ("database", {"managed": None}, "database.managed: is missing, and so is given"),
        (
            "kubevirt",
            {"manged": {}},
            "kubevirt.manged: is no key of the configuration; did you mean managed?",
        ),
        ("vault", {"managed": {"replicas": 2}}, "vault.managed.replicas: an even number of servers"),
        ("machineImage", "ghcr.io/me/agent:latest", "machineImage: changes by itself, under a sleeping"),
        ("runtimeImage", "registry.example.ch/agent:1.4.0", "runtimeImage: may be another one tomorrow"),
        ("machineImage", "agent", 'machineImage: "agent" does not fit; write the machines\' system disk'),
        ("operatorNetworks", ["0.0.0.0/0"], "operatorNetworks: would open PostgreSQL and Vault to the whole"),
        ("operatorNetworks", ["home"], 'operatorNetworks[0]: "home" does not fit'),
        (
            "operatorNetworks",
            [],
            "operatorNetworks: is missing, so nobody could reach the database and the redis and the vault",
        ),
    ],
)
def test_a_mistake_at_the_top_level(key: str, value: Any, expected: str) -> None:
    found = mistakes({**stack("prod"), key: value})
    assert [line for line in found if line.startswith(expected)], found


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("zone", "de-fra-1", "cluster.zone: would keep customers' data outside Switzerland; choose ch-gva-2"),
        ("zone", "ch-zrh-9", "cluster.zone: is no zone of Exoscale; choose ch-gva-2 or ch-dk-2"),
        ("name", "Agent Platform", 'cluster.name: "Agent Platform" does not fit; write the SKS cluster'),
        ("version", "latest", 'cluster.version: "latest" does not fit; write a Kubernetes version'),
        ("version", 1.34, "cluster.version: 1.34 does not fit (input should be a valid string)"),
        ("cni", "flannel", 'cluster.cni: "flannel" does not fit'),
        ("serviceLevel", "gold", 'cluster.serviceLevel: "gold" does not fit'),
        ("autoUpgrade", "yes", 'cluster.autoUpgrade: "yes" does not fit'),
        (
            "auto_upgrade",
            True,
            "cluster.auto_upgrade: is no key of the configuration; did you mean autoUpgrade?",
        ),
        ("nodePools", [], "cluster.nodePools: does not fit"),
        (
            "audit",
            {"endpoint": "http://siem.test"},
            "cluster.audit.endpoint: would send credentials to siem.test",
        ),
        ("kubeconfig", {"ttlDays": 31}, "cluster.kubeconfig.ttlDays: 31 does not fit"),
        (
            "kubeconfig",
            {"ttlDays": 10, "renewBeforeDays": 10},
            "cluster.kubeconfig.renewBeforeDays: would renew the kubeconfig on every run",
        ),
    ],
)
def test_a_mistake_in_the_cluster(key: str, value: Any, expected: str) -> None:
    values = stack("prod")
    values["cluster"][key] = value
    found = mistakes(values)
    assert [line for line in found if line.startswith(expected)], found


def test_a_zone_abroad_is_let_through_when_it_is_meant() -> None:
    values = stack("prod")
    values["cluster"] |= {"zone": "de-fra-1", "allowZonesOutsideSwitzerland": True}
    assert load(values).cluster.zone == "de-fra-1"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("size", 0, "size: 0 does not fit"),
        ("size", 2.5, "size: 2.5 does not fit"),
        ("size", 9, "size: 9 does not fit (input should be less than or equal to 8); write 1 to 8 nodes"),
        ("diskGib", 10, "diskGib: 10 does not fit"),
        ("instanceType", "medium", 'instanceType: "medium" does not fit; write an Exoscale instance type'),
        ("labels", {}, "labels: is no key of the configuration"),
    ],
)
def test_a_mistake_in_a_node_pool(key: str, value: Any, expected: str) -> None:
    values = stack("prod")
    values["cluster"]["nodePools"][0][key] = value
    assert mistakes(values)[0].startswith(f"cluster.nodePools[0].{expected}")


def test_two_node_pools_of_one_name() -> None:
    values = stack("prod")
    values["cluster"]["nodePools"] *= 2
    assert mistakes(values)[0].startswith("cluster.nodePools: two pools of one name")


def test_two_buckets_of_one_name() -> None:
    values = stack("prod")
    values["objectStorage"]["logsBucket"] = values["objectStorage"]["artifactsBucket"]
    assert mistakes(values)[0].startswith("objectStorage.logsBucket: the three buckets would mix")


@pytest.mark.parametrize(
    ("section", "given", "expected"),
    [
        (
            "database",
            {"host": "db.test", "sslMode": "disable"},
            "database.given.sslMode: would send data to db.test",
        ),
        ("database", {"port": 70000}, "database.given.port: 70000 does not fit"),
        ("database", {"port": "5432"}, 'database.given.port: "5432" does not fit'),
        ("database", {"sslMode": "prefer"}, 'database.given.sslMode: "prefer" does not fit'),
        (
            "redis",
            {"host": "redis.test"},
            "redis.given.tls: would send the password to redis.test in the clear",
        ),
        (
            "vault",
            {"address": "http://vault.test:8200"},
            "vault.given.address: would send credentials to vault.test",
        ),
        ("vault", {"address": "vault:8200"}, "vault.given.address: is no address"),
    ],
)
def test_a_mistake_in_a_given_service(section: str, given: dict[str, Any], expected: str) -> None:
    values = local_stack()
    values[section]["given"] |= given
    found = mistakes(values, SECRETS)
    assert len(found) == 1
    assert found[0].startswith(expected)


def test_a_connection_without_tls_has_to_be_said() -> None:
    values = local_stack()
    del values["database"]["given"]["sslMode"]
    del values["redis"]["given"]["tls"]
    assert [line.split(";")[0] for line in mistakes(values, SECRETS)] == [
        "database.given.sslMode: is missing",
        "redis.given.tls: is missing",
    ]


def test_a_given_service_needs_its_secret() -> None:
    found = mistakes(local_stack())
    assert [line.split(";")[0] for line in found] == [
        "databaseAdminPassword: is missing, so database.given would let nobody in",
        "redisPassword: is missing, so redis.given would let nobody in",
        "vaultToken: is missing, so vault.given would let nobody in",
        "gatewayCertificate: is missing, so gateway.certificate.given would let nobody in",
        "gatewayKey: is missing, so gateway.certificate.given would let nobody in",
    ]
    assert all("pulumi config set --secret agent-platform:" in line for line in found)


def test_a_certificate_that_cannot_be_shown_is_refused() -> None:
    other, its_key = certificate("*.agents.localhost")
    expired, expired_key = certificate("*.agents.localhost", days=-1)
    shows_none = "so the gateway could show none and nobody would connect"
    for pair, expected in (
        ((other, SECRETS["gatewayKey"]), f"gatewayKey: does not fit gatewayCertificate, {shows_none}"),
        (("half", its_key), f"gatewayCertificate: is no certificate in PEM, {shows_none}"),
        ((other, "half"), f"gatewayKey: is no private key in PEM without a password, {shows_none}"),
        ((expired, expired_key), "gatewayCertificate: expired on "),
    ):
        chain, key = pair
        (found,) = mistakes(local_stack(), {**SECRETS, "gatewayCertificate": chain, "gatewayKey": key})
        assert found.startswith(expected)
        assert key not in found


def test_a_secret_in_the_clear_is_refused_and_not_repeated() -> None:
    others = {key: value for key, value in SECRETS.items() if key != "vaultToken"}
    (found,) = mistakes({**local_stack(), "vaultToken": "hvs.plain"}, others)
    assert found.startswith("vaultToken: stands in the file in the clear")
    assert "hvs.plain" not in found


def test_a_secret_nobody_uses_is_refused() -> None:
    (found,) = mistakes(stack("prod"), {"redisPassword": "x"})
    assert found == "redisPassword: is used by nothing, since there is no redis.given; remove it"


def test_an_audit_log_needs_its_token() -> None:
    values = stack("prod")
    values["cluster"]["audit"] = {"endpoint": "https://siem.example.ch/audit"}

    (found,) = mistakes(values)
    assert found.startswith(
        "auditToken: is missing, so cluster.audit would let nobody in; run: pulumi config"
    )
    assert load(values, {"auditToken": "x"}).audit_token
    (found,) = mistakes(stack("prod"), {"auditToken": "x"})
    assert found == "auditToken: is used by nothing, since there is no cluster.audit; remove it"


SLICE = {"layers": ["tenants"], "baseStack": "organization/agent-platform/prod", "shard": "a"}


def test_a_stack_of_one_slice_needs_little() -> None:
    settings = load(SLICE)
    assert (settings.layers, settings.shard) == (("tenants",), "a")
    assert settings.base_stack == "organization/agent-platform/prod"
    assert not settings.owns("cluster")
    assert load(stack("prod")).layers == ("cluster", "platform", "tenants")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"layers": ["platform", "cluster"]}, "layers: would leave a layer without the one it stands on"),
        ({"layers": ["cluster", "tenants"]}, "layers: would leave a layer without the one it stands on"),
        ({"layers": ["tenants", "tenants"]}, "layers: would leave a layer without the one it stands on"),
        ({"layers": []}, "layers: does not fit"),
        ({"layers": ["tenant"]}, 'layers[0]: "tenant" does not fit'),
        ({"layers": "tenants"}, 'layers: "tenants" does not fit'),
        ({"baseStack": "prod"}, 'baseStack: "prod" does not fit'),
        ({"baseStack": None}, "baseStack: is missing, so the platform would be found nowhere"),
        ({"domain": "agents.example.ch"}, "domain: is used by nothing, since this stack does not own"),
        ({"cluster": {}}, "cluster: is used by nothing, since this stack does not own the cluster"),
        ({"shard": ""}, 'shard: "" does not fit'),
    ],
)
def test_what_does_not_go_with_a_stacks_layers_is_told(values: dict[str, Any], told: str) -> None:
    merged = {key: value for key, value in {**SLICE, **values}.items() if value is not None}
    assert any(told in line for line in mistakes(merged))


def test_a_stack_of_everything_has_nothing_below_and_no_slice() -> None:
    found = mistakes({**stack("prod"), "baseStack": "organization/agent-platform/x", "shard": "a"})
    assert [line.partition(",")[0] for line in found] == [
        "baseStack: is used by nothing",
        "shard: is used by nothing",
    ]


def test_a_stack_of_the_cluster_needs_what_configures_the_cluster() -> None:
    values = {key: stack("prod")[key] for key in ("cluster", "objectStorage", "operatorNetworks")}
    assert load({**values, "layers": ["cluster"]}).owns("cluster")
    assert mistakes({"layers": ["cluster"], "cluster": values["cluster"]}) == [
        "objectStorage: is missing; write a mapping with the three buckets' names"
    ]
