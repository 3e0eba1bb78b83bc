"""The exoscale stand-in against the emulator, as the official plugin 0.66 answered the same calls."""

import datetime
from typing import Any

import pytest
import yaml

from local.exoscale.policy import storage_statements
from local.providers.exoscale.provider import ExoscaleProvider
from local.providers.provider import Call, Diff, InitializationError, ProviderError, Resource, State
from local.providers.values import UNKNOWN, Properties
from tests.local.exoscale.conftest import LISTINGS, OWNER, Emulator, api, confined, emulator, rules

__all__ = ["api", "emulator"]
ZONE = "ch-gva-2"


class Managed:
    """One resource, through the calls that the engine makes."""

    def __init__(self, provider: ExoscaleProvider, kind: str, inputs: Properties, name: str = "it") -> None:
        self.kind = kind
        self.token = f"exoscale:index/{kind[0].lower()}{kind[1:]}:{kind}"
        self.type: Resource = provider.resource(self.token)
        self.name = name
        self.inputs = self.checked(inputs)
        self.preview = self.type.create(self.call(preview=True), self.inputs)[1]
        self.id, self.outputs = self.type.create(self.call(), self.inputs)

    def call(self, preview: bool = False) -> Call:
        urn = f"urn:pulumi:s::p::{self.token}::{self.name}"
        return Call(urn=urn, name=self.name, token=self.token, preview=preview, random_seed=b"seed")

    def checked(self, inputs: Properties) -> Properties:
        checked, failures = self.type.check(self.call(), getattr(self, "inputs", {}), inputs)
        assert failures == []
        return checked

    def given(self, **changes: Any) -> Properties:
        chosen = self.inputs["__defaults"]
        kept = {key: value for key, value in self.inputs.items() if key not in (*chosen, "__defaults")}
        return self.checked({key: value for key, value in (kept | changes).items() if value is not None})

    def diff(self, **changes: Any) -> Diff:
        return self.type.diff(self.call(), self.id, self.state, self.given(**changes))

    def replaced_by(self, **changes: Any) -> set[str]:
        return {str(path[0]) for path in self.diff(**changes).replaces}

    def update(self, **changes: Any) -> None:
        inputs = self.given(**changes)
        self.outputs = self.type.update(self.call(), self.id, self.state, inputs)
        self.inputs = inputs

    def read(self) -> State | None:
        return self.type.read(self.call(), self.id, self.state)

    def delete(self) -> None:
        self.type.delete(self.call(), self.id, self.state)

    @property
    def state(self) -> State:
        return State(self.inputs, self.outputs)


@pytest.fixture
def provider(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> ExoscaleProvider:
    monkeypatch.setattr("local.providers.exoscale.api._INTERVAL", 0.02)
    monkeypatch.setenv("EXOSCALE_API_ENDPOINT", emulator.url)
    made = ExoscaleProvider()
    made.configure({"key": OWNER[0], "secret": OWNER[1]})
    return made


@pytest.fixture
def cluster(provider: ExoscaleProvider) -> Managed:
    wanted = {"zone": ZONE, "name": "main", "cni": "cilium", "version": "1.36.3", "exoscaleCsi": True}
    return Managed(provider, "SksCluster", wanted)


def failures(provider: ExoscaleProvider, kind: str, inputs: Properties) -> str:
    token = f"exoscale:index/{kind[0].lower()}{kind[1:]}:{kind}"
    call = Call(urn="", name="it", token=token)
    return "\n".join(failure.reason for failure in provider.resource(token).check(call, {}, inputs)[1])


POOL = {"zone": ZONE, "clusterId": UNKNOWN, "size": 1, "instanceType": "standard.large"}
RULE = {"type": "INGRESS", "securityGroupId": UNKNOWN, "cidr": "0.0.0.0/0", "startPort": 22, "endPort": 22}


@pytest.mark.parametrize(
    ("kind", "inputs", "reason"),
    [
        ("AntiAffinityGroup", {"colour": "red"}, "Invalid or unknown key. Examine values at 'it.colour'"),
        ("SksCluster", {}, 'The argument "zone" is required'),
        ("SksCluster", {"zone": ZONE, "autoUpgrade": "maybe"}, "expected bool type"),
        ("SksNodepool", {"zone": ZONE}, 'The argument "instance_type" is required'),
        ("SksNodepool", POOL | {"instanceType": "large"}, '"large", expected format "FAMILY.SIZE"'),
        ("SksKubeconfig", {"zone": ZONE, "user": "u", "groups": []}, 'The argument "cluster_id" is required'),
        ("IamApiKey", {}, 'The argument "role_id" is required'),
        ("PrivateNetwork", {"zone": ZONE, "startIp": "10.0.0.300"}, "start_ip to contain a valid IP"),
        ("SecurityGroup", {"externalSources": ["10.0.0.1/8"]}, "at 'it.externalSources[0]'"),
        ("SecurityGroupRule", RULE | {"type": "ingress"}, 'expected type to be one of ["INGRESS" "EGRESS"]'),
        ("SecurityGroupRule", RULE | {"startPort": 0}, "start_port to be in the range (1 - 65535), got 0"),
        ("SecurityGroupRule", RULE | {"protocol": "SCTP"}, "expected protocol to be one of"),
        ("SecurityGroupRule", RULE | {"cidr": "0.0.0.1/0"}, "expected cidr to contain a valid network"),
        ("SecurityGroupRule", RULE | {"userSecurityGroupId": "x"}, "conflicts with user_security_group_id"),
        ("SecurityGroupRule", RULE | {"icmpType": 8}, '"start_port": conflicts with icmp_type'),
        ("IamRole", {"policy": {"defaultServiceStrategy": "maybe"}}, 'must be one of: ["allow" "deny"]'),
        ("IamRole", {"policy": {"services": {"sos": {"type": "no"}}}}, "at 'it.policy.services.sos.type'"),
    ],
)  # fmt: skip
def test_refused_input(provider: ExoscaleProvider, kind: str, inputs: Properties, reason: str) -> None:
    assert reason in failures(provider, kind, inputs)


def test_unknown_type(provider: ExoscaleProvider) -> None:
    with pytest.raises(ProviderError, match="exoscale:index/nlb:Nlb"):
        provider.resource("exoscale:index/nlb:Nlb")


def test_default_name(provider: ExoscaleProvider) -> None:
    group = Managed(provider, "AntiAffinityGroup", {}, name="apart")
    assert group.outputs["name"].startswith("apart-")
    assert len(group.outputs["name"]) == len("apart-") + 7
    assert group.diff().changes == {}
    renamed = group.diff(description="new")
    assert renamed.replaces == {("description",)}
    assert not renamed.delete_before_replace


def test_security_group_and_rules(provider: ExoscaleProvider) -> None:
    group = Managed(
        provider, "SecurityGroup", {"name": "nodes", "externalSources": ["10.1.0.0/16", "10.0.0.0/16"]}
    )
    assert group.diff(externalSources=["10.0.0.0/16", "10.1.0.0/16"]).changes == {}
    assert group.diff(name="NODES").changes == {}
    assert group.replaced_by(name="other", description="x") == {"name", "description"}
    assert group.diff(name="other").delete_before_replace
    group.update(externalSources=["10.2.0.0/16"])
    assert group.outputs["externalSources"] == ["10.2.0.0/16"]

    given = {"type": "INGRESS", "securityGroupId": group.id}
    ports, echo = {"startPort": 30000, "endPort": 32767}, {"icmpType": 128, "icmpCode": 0}
    rules = [
        Managed(provider, "SecurityGroupRule", {**given, **ports, "cidr": "0.0.0.0/0", "protocol": "tcp"}),
        Managed(provider, "SecurityGroupRule", {**given, **ports, "userSecurityGroupId": group.id}),
        Managed(provider, "SecurityGroupRule", {**given, "userSecurityGroup": "nodes", "protocol": "ESP"}),
        Managed(provider, "SecurityGroupRule", {**given, "cidr": "::/0", "protocol": "ICMPv6", **echo}),
    ]  # fmt: skip
    assert len({rule.id for rule in rules}) == 4
    assert rules[0].outputs["protocol"] == "TCP"
    assert rules[1].outputs["userSecurityGroup"] == "nodes"
    assert rules[3].outputs["protocol"] == "ICMPv6"
    assert rules[0].diff(protocol="TCP").changes == {}
    assert rules[0].replaced_by(startPort=1, description="x") == {"startPort", "description"}
    assert rules[0].replaced_by(cidr=UNKNOWN) == {"cidr"}
    for rule in rules:
        state = rule.read()
        assert state
        assert state.outputs == rule.outputs
        rule.delete()
        assert rule.read() is None
        rule.delete()
    with pytest.raises(ProviderError, match="must be specified"):
        Managed(provider, "SecurityGroupRule", {**given, **ports})
    group.delete()


def test_private_network(provider: ExoscaleProvider) -> None:
    wanted = {
        "zone": "ch-dk-2",
        "name": "main",
        "startIp": "10.0.0.10",
        "endIp": "10.0.0.50",
        "netmask": "255.255.255.0",
    }
    network = Managed(provider, "PrivateNetwork", wanted)
    network.update(description="nodes", endIp="10.0.0.60", labels={"a": "b"})
    assert network.outputs["endIp"] == "10.0.0.60"
    assert network.replaced_by(zone=ZONE) == {"zone"}
    imported = network.type.read(network.call(), f"{network.id}@ch-dk-2", State({}, {}))
    assert imported
    assert imported.inputs["name"] == "main"
    assert imported.outputs["id"] == network.id
    with pytest.raises(ProviderError, match="expected format <ID>@<ZONE>"):
        network.type.read(network.call(), network.id, State({}, {}))
    with pytest.raises(ProviderError, match="zone 'nowhere' not found"):
        Managed(provider, "PrivateNetwork", {"zone": "nowhere", "name": "main"})


def test_cluster(cluster: Managed) -> None:
    assert cluster.preview["endpoint"] is UNKNOWN
    assert cluster.preview["version"] == "1.36.3"
    assert cluster.preview["cni"] == "cilium"
    assert "featureGates" not in cluster.preview
    assert cluster.outputs["addons"] == [
        "exoscale-cloud-controller",
        "exoscale-container-storage-interface",
        "metrics-server",
    ]
    assert cluster.outputs["serviceLevel"] == "pro"
    assert cluster.outputs["aggregationCa"].startswith("-----BEGIN CERTIFICATE")
    assert cluster.outputs["createdAt"].endswith(" +0000 UTC")
    assert cluster.replaced_by(zone="ch-dk-2", enableKubeProxy=True) == {"zone", "enableKubeProxy"}
    cluster.update(labels={"a": "b"}, description="new", featureGates=["B", "A"])
    assert cluster.diff(featureGates=["A", "B"]).changes == {}
    state = cluster.read()
    assert state
    assert (state.inputs["description"], state.inputs["featureGates"]) == ("new", ["A", "B"])
    with pytest.raises(ProviderError, match="disabling the CSI addon is not supported"):
        cluster.update(exoscaleCsi=False)
    with pytest.raises(ProviderError, match="cannot enable audit without setting an endpoint"):
        cluster.update(audit={"enabled": True})
    cluster.update(audit={"enabled": True, "endpoint": "https://a.example.ch", "bearerToken": "token"})
    assert "token'" not in repr(cluster.outputs["audit"]), "the token is marked secret"
    cluster.delete()
    assert cluster.read() is None


def test_node_pool(provider: ExoscaleProvider, cluster: Managed) -> None:
    group = Managed(provider, "SecurityGroup", {"name": "nodes"})
    wanted = {
        "zone": ZONE,
        "name": "workers",
        "clusterId": cluster.id,
        "instanceType": "Standard.Large",
        "size": 2,
        "securityGroupIds": [group.id],
        "taints": {"dedicated": "vm:NoSchedule"},
    }
    pool = Managed(provider, "SksNodepool", wanted)
    assert pool.outputs["diskSize"] == 50
    assert pool.outputs["instancePrefix"] == "pool"
    assert pool.outputs["instanceType"] == "standard.large"
    assert pool.outputs["taints"] == {"dedicated": "vm:NoSchedule"}
    assert pool.diff(instanceType="STANDARD.large").changes == {}
    assert pool.replaced_by(clusterId=UNKNOWN, size=5) == {"clusterId"}
    pool.update(size=3, labels={"pool": "workers"}, instanceType="standard.huge", taints=None)
    assert (pool.outputs["size"], pool.outputs["instanceType"]) == (3, "standard.huge")
    assert "taints" not in pool.outputs
    with pytest.raises(ProviderError, match="expected format VALUE:EFFECT"):
        pool.update(taints={"x": "bad"})
    with pytest.raises(ProviderError, match=r"error retrieving instance type: standard.giant"):
        pool.update(instanceType="standard.giant")
    with pytest.raises(ProviderError, match=r"409 .* in use by SKS node pool workers"):
        group.delete()
    imported = pool.type.read(pool.call(), f"{cluster.id}/{pool.id}@{ZONE}", State({}, {}))
    assert imported
    assert imported.inputs["clusterId"] == cluster.id
    pool.delete()
    pool.delete()


def test_kubeconfig_renewal(provider: ExoscaleProvider, cluster: Managed) -> None:
    wanted = {"zone": ZONE, "clusterId": cluster.id, "user": "u", "groups": ["system:masters"]}
    kubeconfig = Managed(provider, "SksKubeconfig", wanted | {"ttlSeconds": 3600, "earlyRenewalSeconds": 60})
    assert kubeconfig.type.secret_outputs == {"kubeconfig"}
    assert yaml.safe_load(kubeconfig.outputs["kubeconfig"])["current-context"] == "u@main"
    assert kubeconfig.outputs["readyForRenewal"] is False
    assert kubeconfig.id.count(":") == 1
    assert kubeconfig.diff().changes == {}
    assert kubeconfig.replaced_by(user="v", groups=["a"], ttlSeconds=7200) == {"user", "groups", "ttlSeconds"}
    assert kubeconfig.replaced_by(earlyRenewalSeconds=120) == set()
    assert kubeconfig.replaced_by(earlyRenewalSeconds=3600) == {"readyForRenewal"}
    text = kubeconfig.outputs["kubeconfig"]
    kubeconfig.update(earlyRenewalSeconds=120)
    assert kubeconfig.outputs["kubeconfig"] == text
    kubeconfig.delete()


def test_expired_kubeconfig(
    provider: ExoscaleProvider, cluster: Managed, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {
        "zone": ZONE,
        "clusterId": cluster.id,
        "user": "u",
        "groups": ["system:masters"],
        "ttlSeconds": 60,
    }
    kubeconfig = Managed(provider, "SksKubeconfig", wanted)

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "datetime.datetime":  # type: ignore[override]
            return datetime.datetime.now(tz) + datetime.timedelta(seconds=90)

    later = type("datetime", (), {"datetime": Later, "timedelta": datetime.timedelta, "UTC": datetime.UTC})
    monkeypatch.setattr("local.providers.exoscale.sks.datetime", later)
    assert kubeconfig.replaced_by() == {"readyForRenewal"}


def as_inputs(policy: dict[str, Any]) -> Properties:
    return {"defaultServiceStrategy": policy["default-service-strategy"], "services": policy["services"]}


def test_tenant_key(emulator: Emulator, provider: ExoscaleProvider) -> None:
    role = Managed(
        provider, "IamRole", {"name": "tenant-acme", "editable": True, "policy": as_inputs(confined())}
    )
    assert role.outputs["policy"] == as_inputs(confined())
    key = Managed(provider, "IamApiKey", {"name": "tenant-acme", "roleId": role.id})
    assert key.type.secret_outputs == {"secret"}
    assert key.preview["secret"] is UNKNOWN
    assert key.id == key.outputs["key"]
    assert list(emulator.identities) == [key.id]
    assert key.replaced_by(name="z", roleId=UNKNOWN) == {"name", "roleId"}
    assert not key.diff(name="z").delete_before_replace
    state = key.read()
    assert state
    assert state.outputs["secret"] == key.outputs["secret"]
    with pytest.raises(ProviderError, match="409"):
        role.delete()
    narrowed = confined(prefix="tenant_acme/uploads/")
    role.update(policy=as_inputs(narrowed))
    assert emulator.identities == {key.id: storage_statements(narrowed)}
    assert role.replaced_by(name="other") == {"name"}
    with pytest.raises(ProviderError, match="400 policy: service sos, rule 1"):
        role.update(policy=as_inputs(rules(f"operation in {LISTINGS}")))
    key.delete()
    role.delete()
    assert key.read() is None
    assert role.read() is None


def test_role_is_fixed_unless_it_says_otherwise(provider: ExoscaleProvider) -> None:
    role = Managed(provider, "IamRole", {"name": "fixed"})
    assert role.outputs["editable"] is False


def test_what_vanished_is_gone(emulator: Emulator, provider: ExoscaleProvider) -> None:
    group = Managed(provider, "AntiAffinityGroup", {"name": "apart"})
    api = emulator.client()
    api.delete_anti_affinity_group(id=group.id)
    assert group.read() is None
    group.delete()


@pytest.mark.parametrize("missing", ["EXOSCALE_API_KEY", "EXOSCALE_API_SECRET"])
def test_no_credentials(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setenv("EXOSCALE_API_KEY", "k")
    monkeypatch.setenv("EXOSCALE_API_SECRET", "s")
    monkeypatch.delenv(missing)
    with pytest.raises(ProviderError, match="set EXOSCALE_API_KEY and EXOSCALE_API_SECRET"):
        ExoscaleProvider().configure({})


def test_api_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXOSCALE_API_ENDPOINT", "http://127.0.0.1:1/v2")
    provider = ExoscaleProvider()
    provider.configure({"key": "k", "secret": "s"})
    with pytest.raises(ProviderError, match="Exoscale API not reached"):
        Managed(provider, "AntiAffinityGroup", {"name": "apart"})


def test_wrong_credentials(emulator: Emulator, provider: ExoscaleProvider) -> None:
    provider.configure({"key": OWNER[0], "secret": "wrong"})
    with pytest.raises(ProviderError, match="403 invalid credentials"):
        Managed(provider, "AntiAffinityGroup", {"name": "apart"})


def test_unfinished_creation_is_kept(provider: ExoscaleProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """What exists although its creation failed or took too long is in the state."""
    sources = ["10.0.0.0/16"]
    with monkeypatch.context() as patch:
        patch.setattr("local.providers.exoscale.network.SecurityGroup.change", fail)
        with pytest.raises(InitializationError, match="on purpose") as kept:
            Managed(provider, "SecurityGroup", {"name": "nodes", "externalSources": sources})
    group = provider.resource("exoscale:index/securityGroup:SecurityGroup")
    state = State(kept.value.inputs, kept.value.outputs)
    call = Call(urn="", name="it", token="")
    assert group.update(call, kept.value.id, state, kept.value.inputs)["externalSources"] == sources

    monkeypatch.setattr("local.exoscale.request.DURATION", 60)
    provider.configure({"key": OWNER[0], "secret": OWNER[1], "timeout": 0.1})
    with pytest.raises(InitializationError, match="may still take effect") as kept:
        Managed(provider, "AntiAffinityGroup", {"name": "apart"})
    apart = provider.resource("exoscale:index/antiAffinityGroup:AntiAffinityGroup")
    assert apart.read(call, kept.value.id, State(kept.value.inputs, kept.value.outputs))


def fail(*_: object) -> None:
    raise ProviderError("on purpose")
