"""Openings, entrances and addresses."""

from typing import Any

from tests.policy.examples import failing, passing
from tests.policy.examples.pods import container, pod
from tests.policy.scene import Scene, unknown

_DNS: dict[str, Any] = {
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
    "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
}
_PORT = [{"protocol": "TCP", "port": 443}]
_WORLD: dict[str, Any] = {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16", "10.0.0.0/8"]}
_CLOSED: dict[str, Any] = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
_BUCKET = "pulumi-python:dynamic/agent-platform:Bucket"
_FIREWALL = "exoscale:index/securityGroupRule:SecurityGroupRule"


def _policy(scene: Scene, spec: dict[str, Any], suffix: str = "policy", **more: Any) -> None:
    scene.kubernetes("networking.k8s.io/v1:NetworkPolicy", {"spec": spec}, suffix=suffix, **more)


def _open(scene: Scene, *, suffix: str = "policy", **rules: Any) -> None:
    types = [direction.capitalize() for direction in rules]
    _policy(scene, {"podSelector": {"matchLabels": {"app": "agent"}}, "policyTypes": types, **rules}, suffix)


def _own_namespace(scene: Scene) -> None:
    scene.kubernetes(
        "core/v1:Namespace", {}, suffix="home", parent=scene.tenant(), metadata={"name": scene.namespace}
    )


@passing("network-default-deny")
def closed(scene: Scene) -> None:
    _own_namespace(scene)
    _policy(scene, _CLOSED)


@passing("network-default-deny")
def closed_one_by_one(scene: Scene) -> None:
    _own_namespace(scene)
    for direction in ("Ingress", "Egress"):
        _policy(scene, {"podSelector": {}, "policyTypes": [direction]}, direction.lower())


@failing("network-default-deny")
def never_closed(scene: Scene) -> None:
    _own_namespace(scene)


@failing("network-default-deny")
def closed_inwards_only(scene: Scene) -> None:
    _own_namespace(scene)
    _policy(scene, {"podSelector": {}, "policyTypes": ["Ingress"]})


@failing("network-default-deny")
def closed_elsewhere(scene: Scene) -> None:
    _own_namespace(scene)
    _policy(scene, _CLOSED, metadata={"namespace": "elsewhere"})


@failing("network-default-deny")
def closed_for_some_pods(scene: Scene) -> None:
    _own_namespace(scene)
    _policy(scene, {**_CLOSED, "podSelector": {"matchLabels": {"app": "agent"}}})


@failing("network-default-deny")
def closed_and_opened_at_once(scene: Scene) -> None:
    _own_namespace(scene)
    _policy(scene, {**_CLOSED, "egress": [{"to": [_DNS]}]})


@passing("network-no-empty-peer")
@passing("network-ports-named")
@passing("network-not-from-world")
@passing("network-no-metadata")
def opened(scene: Scene) -> None:
    _open(scene, egress=[{"to": [_DNS, {"ipBlock": _WORLD}], "ports": _PORT}], suffix="out")
    office = {"ipBlock": {"cidr": "203.0.113.0/24"}}
    _open(scene, ingress=[{"from": [office], "ports": _PORT}], suffix="in")
    wireguard = [{"protocol": "UDP", "port": 51820}]
    _open(scene, ingress=[{"from": [{"ipBlock": _WORLD}], "ports": wireguard}], suffix="vpn")


@failing("network-no-empty-peer")
def to_everybody(scene: Scene) -> None:
    _open(scene, egress=[{"ports": _PORT}])


@failing("network-no-empty-peer")
def from_every_namespace(scene: Scene) -> None:
    _open(scene, ingress=[{"from": [{**_DNS, "namespaceSelector": {}}], "ports": _PORT}])


@failing("network-no-empty-peer")
def from_every_pod(scene: Scene) -> None:
    _open(scene, ingress=[{"from": [{"podSelector": {}}], "ports": _PORT}])


@failing("network-no-empty-peer")
def from_every_pod_by_no_label(scene: Scene) -> None:
    _open(scene, ingress=[{"from": [{"podSelector": {"matchLabels": {}}}], "ports": _PORT}])


@failing("network-ports-named")
def on_every_port(scene: Scene) -> None:
    _open(scene, egress=[{"to": [_DNS]}])


@failing("network-ports-named")
def on_every_port_of_a_protocol(scene: Scene) -> None:
    _open(scene, egress=[{"to": [_DNS], "ports": [{"protocol": "TCP"}]}])


@failing("network-not-from-world")
def from_the_world(scene: Scene) -> None:
    _open(scene, ingress=[{"from": [{"ipBlock": _WORLD}], "ports": _PORT}])


@failing("network-not-from-world")
def from_the_world_in_a_range_that_begins_well(scene: Scene) -> None:
    ports = [{"protocol": "UDP", "port": 51820, "endPort": 60000}]
    _open(scene, ingress=[{"from": [{"ipBlock": {"cidr": "::/0"}}], "ports": ports}])


@failing("network-no-metadata")
def to_metadata(scene: Scene) -> None:
    block = {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}
    _open(scene, egress=[{"to": [{"ipBlock": block}], "ports": _PORT}])


def _service(**spec: Any) -> dict[str, Any]:
    return {"spec": {"selector": {"app": "agent"}, "ports": [{"port": 8200, "protocol": "TCP"}], **spec}}


@passing("network-services-inside")
@passing("network-entrances-closed")
def services(scene: Scene) -> None:
    scene.kubernetes("core/v1:Service", _service(), suffix="inside")
    known = _service(
        type="LoadBalancer", externalTrafficPolicy="Local", loadBalancerSourceRanges=["203.0.113.0/24"]
    )
    scene.kubernetes(
        "core/v1:Service", known, suffix="vault", metadata={"name": "vault-operators", "namespace": unknown()}
    )
    wireguard = _service(type="LoadBalancer", ports=[{"port": 51820, "protocol": "UDP"}])
    scene.kubernetes("core/v1:Service", wireguard, suffix="vpn", metadata={"name": "vpn"})


@failing("network-services-inside")
def node_port(scene: Scene) -> None:
    scene.kubernetes("core/v1:Service", _service(type="NodePort"))


@failing("network-services-inside")
def unnamed_load_balancer(scene: Scene) -> None:
    scene.kubernetes("core/v1:Service", _service(type="LoadBalancer"))


@failing("network-services-inside")
def external_address(scene: Scene) -> None:
    scene.kubernetes("core/v1:Service", _service(externalIPs=["203.0.113.7"]))


@failing("network-entrances-closed")
def open_by_default(scene: Scene) -> None:
    scene.kubernetes("core/v1:Service", _service(type="LoadBalancer", externalTrafficPolicy="Local"))


@failing("network-entrances-closed")
def open_to_the_world(scene: Scene) -> None:
    ranges = ["203.0.113.0/24", "::/0"]
    spec = _service(type="LoadBalancer", externalTrafficPolicy="Local", loadBalancerSourceRanges=ranges)
    scene.kubernetes("core/v1:Service", spec)


@failing("network-entrances-closed")
def source_rewritten(scene: Scene) -> None:
    scene.kubernetes(
        "core/v1:Service", _service(type="LoadBalancer", loadBalancerSourceRanges=["203.0.113.0/24"])
    )


def _firewall(**changed: Any) -> dict[str, Any]:
    ports = {"startPort": 30000, "endPort": 32767}
    group = {"securityGroupId": unknown(), "type": "INGRESS", "protocol": "TCP"}
    return {**group, **ports, "cidr": "203.0.113.0/24", **changed}


@passing("network-nodes-closed")
def nodes_closed(scene: Scene) -> None:
    scene.declare(_FIREWALL, _firewall(), suffix="operators")
    scene.declare(_FIREWALL, _firewall(cidr="0.0.0.0/0", protocol="UDP"), suffix="vpn", parent=scene.tenant())


@failing("network-nodes-closed")
def nodes_open(scene: Scene) -> None:
    scene.declare(_FIREWALL, _firewall(cidr="0.0.0.0/0"))


@failing("network-nodes-closed")
def nodes_open_to_half_the_world(scene: Scene) -> None:
    scene.declare(_FIREWALL, _firewall(cidr="128.0.0.0/1"))


@failing("network-nodes-closed")
def nodes_open_to_all_of_ipv6(scene: Scene) -> None:
    scene.declare(_FIREWALL, _firewall(cidr="::/0"), parent=scene.tenant())


@passing("network-no-host-port")
def port_of_its_own(scene: Scene) -> None:
    scene.kubernetes("core/v1:Pod", {"spec": pod(container(ports=[{"containerPort": 8080}]))})


@failing("network-no-host-port")
def port_of_its_node(scene: Scene) -> None:
    ports = [{"containerPort": 8080, "hostPort": 8080}]
    scene.kubernetes("core/v1:Pod", {"spec": pod(container(ports=ports))})


@passing("network-tls")
def encrypted(scene: Scene) -> None:
    scene.provider("postgresql", {"host": "db.example.ch", "sslmode": "verify-full"}, suffix="postgresql")
    scene.provider("postgresql", {"host": "127.0.0.1", "sslmode": "disable"}, suffix="loopback")
    scene.provider("vault", {"address": "https://vault.example.ch"}, suffix="vault")


@failing("network-tls")
def database_in_the_clear(scene: Scene) -> None:
    scene.provider("postgresql", {"host": "db.example.ch", "sslmode": "prefer"})


@failing("network-tls")
def vault_in_the_clear(scene: Scene) -> None:
    scene.provider("vault", {"address": "http://vault.example.ch:8200"})


@failing("network-tls")
def vault_unverified(scene: Scene) -> None:
    scene.provider("vault", {"address": "https://vault.example.ch", "skipTlsVerify": True})


@failing("network-tls")
def logins_in_the_clear(scene: Scene) -> None:
    url = "postgresql://{{username}}:{{password}}@db.example.ch:5432/agents?sslmode=disable"
    scene.declare(
        "vault:database/secretBackendConnection:SecretBackendConnection",
        {"backend": "database", "name": "agents", "postgresql": {"connectionUrl": url}},
    )


@passing("network-tls-storage")
def objects_encrypted(scene: Scene) -> None:
    scene.declare(_BUCKET, {"endpoint": "https://sos-ch-gva-2.exo.io"}, suffix="zone")
    scene.declare(_BUCKET, {"endpoint": "http://127.0.0.1:9000"}, suffix="loopback")


@failing("network-tls-storage")
def objects_in_the_clear(scene: Scene) -> None:
    scene.declare(_BUCKET, {"endpoint": "http://s3.example.ch"})
