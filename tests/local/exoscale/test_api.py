"""The emulator as a client sees it: through the official SDK, over HTTP."""

import base64
import datetime
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from exoscale.api.exceptions import (  # type: ignore[import-untyped]
    ExoscaleAPIAuthException,
    ExoscaleAPIClientException,
    ExoscaleAPIServerException,
)
from exoscale.api.v2 import Client  # type: ignore[import-untyped]
from exoscale_auth import ExoscaleV2Auth  # type: ignore[import-untyped]
from requests import PreparedRequest, Request

from local.errors import LocalError
from local.exoscale import request
from local.exoscale.policy import storage_statements
from local.servers import kubernetes, object_storage
from tests.local.exoscale.conftest import OWNER, Emulator, confined, done, rules


@pytest.fixture
def cluster(api: Client) -> str:
    version = api.list_sks_cluster_versions()["sks-cluster-versions"][0]
    return done(api, api.create_sks_cluster(name="main", level="pro", version=version, cni="cilium"))


def pool(api: Client, cluster: str, **more: Any) -> str:
    large = next(
        kind
        for kind in api.list_instance_types()["instance-types"]
        if (kind["family"], kind["size"]) == ("standard", "large")
    )
    fields = {"name": "workers", "size": 3, "disk_size": 100, "instance_type": {"id": large["id"]}} | more
    return done(api, api.create_sks_nodepool(id=cluster, **fields))


def members(api: Client, cluster: str, nodepool: str) -> list[str]:
    group = api.get_sks_nodepool(id=cluster, sks_nodepool_id=nodepool)["instance-pool"]["id"]
    found = api.list_instances(manager_id=group, manager_type="instance-pool")["instances"]
    return sorted(instance["name"] for instance in found)


def test_zones_without_credentials(emulator: Emulator) -> None:
    with urllib.request.urlopen(f"{emulator.url}/zone") as answer:
        zones = {zone["name"]: zone["api-endpoint"] for zone in json.load(answer)["zones"]}
    assert zones["ch-gva-2"] == emulator.url.replace("/v2", "/ch-gva-2/v2")
    with urllib.request.urlopen(f"{zones['de-fra-1']}/zone") as answer:
        assert answer.status == 200


@pytest.mark.parametrize("credentials", [("EXOnobody", OWNER[1]), (OWNER[0], "wrong"), ("", "")])
def test_stranger(emulator: Emulator, credentials: tuple[str, str]) -> None:
    with pytest.raises(ExoscaleAPIAuthException, match="403"):
        emulator.client(*credentials).list_security_groups(visibility="private")


def signed(
    emulator: Emulator, method: str, path: str, body: bytes = b"", expires: int = 60
) -> PreparedRequest:
    unsent = Request(method, emulator.url + path, data=body).prepare()
    ExoscaleV2Auth(*OWNER)._sign_request(unsent, int(time.time()) + expires)
    return unsent


def status(sent: PreparedRequest) -> int:
    assert sent.url
    body = sent.body if isinstance(sent.body, bytes) else None
    headers = {name: str(value) for name, value in sent.headers.items()}
    plain = urllib.request.Request(sent.url, body, headers, method=sent.method)
    try:
        with urllib.request.urlopen(plain) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        assert set(json.load(error)) == {"message"}
        return error.code


def test_signature(emulator: Emulator) -> None:
    body = b'{"name": "a"}'
    assert status(signed(emulator, "POST", "/security-group", body)) == 200
    assert status(signed(emulator, "POST", "/security-group", body, expires=-1)) == 403
    changed = signed(emulator, "POST", "/security-group", body)
    changed.body = b'{"name": "b"}'
    assert status(changed) == 403
    moved = signed(emulator, "GET", "/security-group")
    moved.url = f"{emulator.url}/iam-role"
    assert status(moved) == 403
    added = signed(emulator, "GET", "/security-group")
    added.url = f"{added.url}?visibility=public"
    assert status(added) == 403


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("GET", "/nowhere", b"", 404),
        ("GET", "/dns-domain", b"", 501),
        ("PATCH", "/security-group", b"", 404),
        ("GET", "/security-group/no-uuid", b"", 400),
        ("GET", "/security-group?colour=red", b"", 400),
        ("POST", "/security-group", b"", 400),
        ("POST", "/security-group", b"[]", 400),
        ("POST", "/security-group", b"{", 400),
        ("POST", "/security-group", b"\xff\xfe", 400),
        ("POST", "/security-group", b"{}", 400),
        ("POST", "/security-group", b'{"name": ""}', 400),
        ("POST", "/security-group", b'{"name": "a", "colour": "red"}', 400),
        ("POST", "/security-group", b"[" * 100_000, 400),
    ],
)
def test_bad_request(emulator: Emulator, method: str, path: str, body: bytes, expected: int) -> None:
    assert status(signed(emulator, method, path, body)) == expected


def test_only_what_the_document_has(api: Client) -> None:
    with pytest.raises(ExoscaleAPIServerException, match=r"501.*list-dns-domains"):
        api.list_dns_domains()


def test_security_group(api: Client) -> None:
    group = done(api, api.create_security_group(name="nodes"))
    rule = {"flow_direction": "ingress", "protocol": "tcp", "start_port": 30000, "end_port": 32767}
    done(api, api.add_rule_to_security_group(id=group, network="0.0.0.0/0", **rule))
    done(api, api.add_rule_to_security_group(id=group, security_group={"id": group}, **rule))
    checks = {"name": "public-nlb-healthcheck-sources", "visibility": "public"}
    assert api.list_security_groups(visibility="public")["security-groups"] == [checks]
    done(api, api.add_rule_to_security_group(id=group, security_group=checks, **rule))
    rules = api.get_security_group(id=group)["rules"]
    assert [(r.get("network"), r.get("security-group", {}).get("name")) for r in rules] == [
        ("0.0.0.0/0", None),
        (None, "nodes"),
        (None, "public-nlb-healthcheck-sources"),
    ]
    for bad in (
        {"network": "0.0.0.0/0"},  # there already
        {},
        {"network": "10.0.0.1/8"},
        {"network": "::/0", "security_group": {"id": group}},
        {"security_group": {"id": "00000000-0000-0000-0000-000000000000"}},
        {"security_group": {"name": "public-nowhere", "visibility": "public"}},
    ):
        with pytest.raises(ExoscaleAPIClientException):
            api.add_rule_to_security_group(id=group, **rule, **bad)
    with pytest.raises(ExoscaleAPIClientException, match="409"):
        api.create_security_group(name="nodes")
    done(api, api.delete_rule_from_security_group(id=group, rule_id=rules[0]["id"]))
    other = done(api, api.create_security_group(name="other"))
    done(api, api.add_rule_to_security_group(id=other, security_group={"id": group}, **rule))
    with pytest.raises(ExoscaleAPIClientException, match="409"):
        api.delete_security_group(id=group)
    done(api, api.delete_security_group(id=other))
    done(api, api.delete_security_group(id=group))
    with pytest.raises(ExoscaleAPIClientException, match="404"):
        api.get_security_group(id=group)


def test_private_network_belongs_to_its_zone(emulator: Emulator, api: Client) -> None:
    addresses = {"start_ip": "10.0.0.50", "end_ip": "10.0.0.250", "netmask": "255.255.255.0"}
    network = done(api, api.create_private_network(name="main", **addresses))
    with pytest.raises(ExoscaleAPIClientException, match="404"):
        emulator.client(zone="ch-dk-2").get_private_network(id=network)
    done(api, api.update_private_network(id=network, description="nodes", end_ip="10.0.0.200"))
    assert api.get_private_network(id=network)["end-ip"] == "10.0.0.200"
    for bad in ({"end_ip": "10.0.1.1"}, {"end_ip": "10.0.0.1"}, {"netmask": "1.2.3.4"}, {"start_ip": "x"}):
        with pytest.raises(ExoscaleAPIClientException, match="400"):
            api.update_private_network(id=network, **bad)
    done(api, api.delete_private_network(id=network))


def test_cluster_must_be_waited_for(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "DURATION", 2)
    version = api.list_sks_cluster_versions()["sks-cluster-versions"][0]
    operation = api.create_sks_cluster(name="main", level="pro", version=version)
    created = operation["reference"]["id"]
    assert api.get_sks_cluster(id=created)["state"] == "creating"
    with pytest.raises(ExoscaleAPIClientException, match="409"):
        api.generate_sks_cluster_kubeconfig(id=created, user="admin", groups=["system:masters"])
    done(api, operation)
    assert api.get_sks_cluster(id=created)["state"] == "running"


def test_one_cluster(emulator: Emulator, api: Client, cluster: str) -> None:
    version = api.get_sks_cluster(id=cluster)["version"]
    with pytest.raises(ExoscaleAPIAuthException, match="main"):
        emulator.client(zone="ch-dk-2").create_sks_cluster(name="second", level="pro", version=version)
    done(api, api.delete_sks_cluster(id=cluster))
    assert api.list_sks_clusters()["sks-clusters"] == []


def test_cluster_changes(api: Client, cluster: str) -> None:
    done(api, api.update_sks_cluster(id=cluster, labels={"a": "b"}, addons=["metrics-server"]))
    with pytest.raises(ExoscaleAPIClientException, match="cannot be taken away"):
        api.update_sks_cluster(id=cluster, addons=["karpenter"])
    with pytest.raises(ExoscaleAPIClientException, match="not offered"):
        api.upgrade_sks_cluster(id=cluster, version="1.2.3")
    with pytest.raises(ExoscaleAPIClientException, match="cannot become"):
        api.upgrade_sks_cluster(
            id=cluster, version=api.list_sks_cluster_versions()["sks-cluster-versions"][-1]
        )
    audit = {"endpoint": "https://audit.example.ch", "bearer-token": "token", "enabled": True}
    done(api, api.update_sks_cluster(id=cluster, audit=audit))
    assert "bearer-token" not in api.get_sks_cluster(id=cluster)["audit"]


def test_kubeconfig(api: Client, cluster: str) -> None:
    answer = api.generate_sks_cluster_kubeconfig(
        id=cluster, user="pulumi", groups=["system:masters"], ttl=600
    )
    kubeconfig = yaml.safe_load(base64.b64decode(answer["kubeconfig"]))
    pem = base64.b64decode(kubeconfig["users"][0]["user"]["client-certificate-data"])
    certificate = x509.load_pem_x509_certificate(pem)
    assert certificate.subject.rfc4514_string() == "CN=pulumi,O=system:masters"
    left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(seconds=500) < left <= datetime.timedelta(seconds=600)
    assert kubeconfig["clusters"][0]["cluster"]["server"] == kubernetes.API_URL()
    assert kubeconfig["current-context"] == kubeconfig["contexts"][0]["name"]


def test_node_pool(api: Client, cluster: str) -> None:
    group = done(api, api.create_security_group(name="nodes"))
    apart = done(api, api.create_anti_affinity_group(name="apart"))
    network = done(api, api.create_private_network(name="main"))
    taint = {"dedicated": {"value": "kubevirt", "effect": "NoSchedule"}}
    nodepool = pool(
        api,
        cluster,
        labels={"role": "vm"},
        taints=taint,
        security_groups=[{"id": group}],
        anti_affinity_groups=[{"id": apart}],
        private_networks=[{"id": network}],
    )
    shown = api.get_sks_cluster(id=cluster)["nodepools"][0]
    assert (shown["id"], shown["labels"], shown["taints"]) == (nodepool, {"role": "vm"}, taint)
    first = members(api, cluster, nodepool)
    prefix = f"pool-{shown['instance-pool']['id'][:5]}-"
    assert len(first) == 3
    assert all(name.startswith(prefix) and len(name) == len(prefix) + 5 for name in first)

    done(api, api.scale_sks_nodepool(id=cluster, sks_nodepool_id=nodepool, size=5))
    grown = members(api, cluster, nodepool)
    assert set(first) < set(grown)
    assert len(grown) == 5
    done(api, api.scale_sks_nodepool(id=cluster, sks_nodepool_id=nodepool, size=3))
    assert members(api, cluster, nodepool) == first
    done(api, api.update_sks_nodepool(id=cluster, sks_nodepool_id=nodepool, labels={"role": "other"}))
    assert members(api, cluster, nodepool) == first

    for used in (
        lambda: api.delete_security_group(id=group),
        lambda: api.delete_anti_affinity_group(id=apart),
        lambda: api.delete_private_network(id=network),
        lambda: api.delete_sks_cluster(id=cluster),
        lambda: pool(api, cluster),
    ):
        with pytest.raises(ExoscaleAPIClientException, match=r"409.*workers"):
            used()
    with pytest.raises(ExoscaleAPIClientException, match="404"):
        pool(api, cluster, name="second", security_groups=[{"id": apart}])
    with pytest.raises(ExoscaleAPIClientException, match="lowercase"):
        pool(api, cluster, name="Second")
    done(api, api.delete_sks_nodepool(id=cluster, sks_nodepool_id=nodepool))
    assert api.list_instances()["instances"] == []
    for free in (
        api.delete_security_group(id=group),
        api.delete_anti_affinity_group(id=apart),
        api.delete_private_network(id=network),
        api.delete_sks_cluster(id=cluster),
    ):
        done(api, free)


def test_tenant_key(emulator: Emulator, api: Client, cluster: str) -> None:
    role = done(api, api.create_iam_role(name="tenant-acme", policy=confined()))
    key = api.create_api_key(name="tenant-acme", role_id=role)
    assert emulator.identities == {key["key"]: storage_statements(confined())}
    assert "secret" not in api.get_api_key(id=key["key"])
    assert all("secret" not in listed for listed in api.list_api_keys()["api-keys"])

    tenant = emulator.client(key["key"], key["secret"])
    attempts: list[Callable[[], object]] = [
        lambda: tenant.list_sks_clusters(),
        lambda: tenant.generate_sks_cluster_kubeconfig(id=cluster, user="x", groups=["system:masters"]),
        lambda: tenant.create_api_key(name="more", role_id=role),
        lambda: tenant.update_iam_role_policy(id=role, default_service_strategy="allow", services={}),
        lambda: tenant.list_sos_buckets_usage(),
    ]
    for attempt in attempts:
        with pytest.raises(ExoscaleAPIAuthException, match="policy of role tenant-acme"):
            attempt()

    with pytest.raises(ExoscaleAPIClientException, match="409"):
        api.delete_iam_role(id=role)
    narrowed = confined(prefix="tenant_acme/uploads/")
    done(
        api,
        api.update_iam_role_policy(
            id=role,
            default_service_strategy=narrowed["default-service-strategy"],
            services=narrowed["services"],
        ),
    )
    assert emulator.identities == {key["key"]: storage_statements(narrowed)}
    done(api, api.delete_api_key(id=key["key"]))
    assert emulator.identities == {}
    with pytest.raises(ExoscaleAPIAuthException, match="credentials"):
        tenant.list_sks_clusters()
    done(api, api.delete_iam_role(id=role))


def test_policy_that_has_no_s3_words(api: Client) -> None:
    with pytest.raises(ExoscaleAPIClientException, match=r"400.*policy: service sos, rule 1"):
        api.create_iam_role(name="wide", policy=rules("true"))
    assert api.list_iam_roles()["iam-roles"] == []


def test_fixed_role(api: Client) -> None:
    role = done(api, api.create_iam_role(name="fixed", policy=confined(), editable=False))
    with pytest.raises(ExoscaleAPIAuthException, match="not editable"):
        api.update_iam_role_policy(id=role, default_service_strategy="deny", services={})


def test_state_outlives_the_process(emulator: Emulator, api: Client) -> None:
    role = done(api, api.create_iam_role(name="tenant-acme", policy=confined()))
    key = api.create_api_key(name="tenant-acme", role_id=role)
    emulator.stop()
    emulator.start()
    api = emulator.client()
    assert api.get_iam_role(id=role)["name"] == "tenant-acme"
    with pytest.raises(ExoscaleAPIAuthException, match="not allowed"):
        emulator.client(key["key"], key["secret"]).list_iam_roles()
    assert emulator.state.stat().st_mode & 0o077 == 0


def test_key_that_the_s3_server_refuses(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    role = done(api, api.create_iam_role(name="tenant-acme", policy=confined()))

    def refuse(*_: object) -> None:
        raise LocalError("object-storage: not there; start it")

    monkeypatch.setattr(object_storage, "put_identity", refuse)
    with pytest.raises(ExoscaleAPIServerException, match=r"503.*not there"):
        api.create_api_key(name="tenant-acme", role_id=role)
    assert api.list_api_keys()["api-keys"] == []


def test_key_that_the_s3_server_missed(
    emulator: Emulator, api: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between its own commit and the S3 server's: the next start makes up for it."""
    role = done(api, api.create_iam_role(name="tenant-acme", policy=confined()))
    with monkeypatch.context() as patch:
        patch.setattr("local.exoscale.iam._publish_new", lambda *_: None)
        key = api.create_api_key(name="tenant-acme", role_id=role)
    assert emulator.identities == {}
    emulator.stop()
    emulator.start()
    assert list(emulator.identities) == [key["key"]]


def test_damaged_state(tmp_path: Path) -> None:
    (tmp_path / "exoscale").mkdir()
    (tmp_path / "exoscale" / "state.sqlite").write_text("no database " * 100)
    environment = os.environ | {"AGENT_PLATFORM_DATA": str(tmp_path)}
    command = [sys.executable, "-m", "local.exoscale"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 1
    assert "state.sqlite: cannot be read" in ended.stderr
    assert "Traceback" not in ended.stderr
