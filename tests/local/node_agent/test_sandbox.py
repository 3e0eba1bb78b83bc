import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException

from local.node_agent import sandbox as module
from local.node_agent.isolation import PYTHON, Mount
from local.node_agent.kube import Api, Object
from local.node_agent.sandbox import ConfigurationError, Sandbox
from tests.local.node_agent.objects import a_container, a_pod

TOKEN = "/api/v1/namespaces/ns/serviceaccounts/suspender/token"


class Cluster(Api):
    """The three kinds of answers that a sandbox asks for."""

    def __init__(self) -> None:
        self.requests: list[Object] = []
        self.objects: dict[str, Object] = {
            "secrets/s": {"data": {"password": base64.b64encode(b"hush").decode()}},
            "configmaps/c": {"data": {"mode": "fast", "level": "7"}},
        }

    def get(self, path: str) -> Object:
        found = self.objects.get(path.removeprefix("/api/v1/namespaces/ns/"))
        if found is None:
            raise ApiException(status=404)
        return found

    def create(self, path: str, body: Object) -> Object:
        assert path == TOKEN
        self.requests.append(body)
        return {
            "status": {"token": f"token-{len(self.requests)}", "expirationTimestamp": "2099-01-01T00:00:00Z"}
        }


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def a_sandbox(cluster: Cluster, folder: Path, pod: Object) -> Sandbox:
    addresses = {"podIP": "127.64.0.1", "hostIP": "127.16.0.1"}
    return Sandbox(cluster, pod, folder, "https://127.0.0.1:6443", addresses)


def ours(**fields: Any) -> Object:
    return a_container(**{"command": ["python", "-m", "services.x"], **fields})


def environment(cluster: Cluster, folder: Path, *variables: Object, **fields: Any) -> dict[str, str]:
    container = ours(env=list(variables), **fields)
    made = a_sandbox(cluster, folder, a_pod(node_name="n1", labels={"tier": "starter"}))
    return dict(made.command(container).environment)


def test_command_and_arguments_with_this_interpreter(cluster: Cluster, tmp_path: Path) -> None:
    env = [{"name": "NAME", "value": "x"}]
    container = ours(args=["--name=$(NAME)", "$$(NAME)", "$(UNKNOWN)"], env=env)
    found = a_sandbox(cluster, tmp_path, a_pod()).command(container)
    assert found.arguments == [PYTHON, "-m", "services.x", "--name=x", "$(NAME)", "$(UNKNOWN)"]


def test_environment_from_everywhere(cluster: Cluster, tmp_path: Path) -> None:
    found = environment(
        cluster,
        tmp_path,
        {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "s", "key": "password"}}},
        {"name": "URL", "value": "redis://:$(PASSWORD)@host"},
        {"name": "MODE", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "mode"}}},
        {"name": "NONE", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "x", "optional": True}}},
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "TIER", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['tier']"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        envFrom=[{"prefix": "C_", "configMapRef": {"name": "c"}}],
    )
    expected = {
        "PASSWORD": "hush",
        "URL": "redis://:hush@host",
        "MODE": "fast",
        "POD": "p",
        "TIER": "starter",
        "IP": "127.64.0.1",
        "C_level": "7",
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": "6443",
    }
    assert expected.items() <= found.items()
    assert "NONE" not in found


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ({"secretKeyRef": {"name": "s", "key": "no"}}, "secrets s has no key no"),
        ({"secretKeyRef": {"name": "gone", "key": "x"}}, "secrets gone not found in namespace ns"),
        ({"fieldRef": {"fieldPath": "spec.nonsense"}}, "fieldPath spec.nonsense is not supported here"),
        ({"resourceFieldRef": {}}, "environment from resourceFieldRef is not supported here"),
    ],
)
def test_what_is_missing_is_named(cluster: Cluster, tmp_path: Path, variable: Object, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        environment(cluster, tmp_path, {"name": "X", "valueFrom": variable})


def account() -> Object:
    sources = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
        {"configMap": {"name": "c", "items": [{"key": "mode", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]
    return a_pod(
        serviceAccountName="suspender", volumes=[{"name": "account", "projected": {"sources": sources}}]
    )


def test_the_token_is_bound_to_the_pod_and_renewed(cluster: Cluster, tmp_path: Path) -> None:
    made = a_sandbox(cluster, tmp_path, account())
    renewal = made.write_volumes()
    assert renewal is not None and renewal > 0
    folder = tmp_path / "volumes" / "account"
    contents = {name: (folder / name).read_text() for name in ("token", "ca.crt", "namespace")}
    assert contents == {"token": "token-1", "ca.crt": "fast", "namespace": "ns"}
    assert (folder / "token").stat().st_mode & 0o777 == 0o644, "the folder of all Pods is closed"
    made.write_volumes()
    assert (folder / "token").read_text() == "token-2"
    bound = cluster.requests[0]["spec"]["boundObjectRef"]
    assert (bound["kind"], bound["uid"]) == ("Pod", "uid-p")


def mounted(cluster: Cluster, folder: Path, pod: Object, *mounts: Object) -> Sequence[Mount]:
    made = a_sandbox(cluster, folder, pod)
    made.write_volumes()
    isolation = made.command(ours(volumeMounts=list(mounts))).isolation
    assert isolation is not None
    return isolation.mounts


def test_volumes_become_mounts_that_only_an_empty_dir_lets_write(cluster: Cluster, tmp_path: Path) -> None:
    pod = account()
    pod["spec"]["volumes"].append({"name": "scratch", "emptyDir": {}})
    found = mounted(
        cluster,
        tmp_path,
        pod,
        {"name": "account", "mountPath": module.SERVICE_ACCOUNT},
        {"name": "scratch", "mountPath": "/scratch"},
        {"name": "scratch", "mountPath": "/seen", "readOnly": True},
    )
    assert [(str(source.relative_to(tmp_path)), *rest) for source, *rest in found] == [
        ("volumes/account", module.SERVICE_ACCOUNT, False),
        ("volumes/scratch", "/scratch", True),
        ("volumes/scratch", "/seen", False),
    ]


@pytest.mark.parametrize(
    ("mounts", "message"),
    [
        ([{"mountPath": "/scratch", "subPath": "link"}], "subPath of an emptyDir"),
        ([{"mountPath": "/scratch"}, {"mountPath": "/scratch/link"}], "/scratch/link is mounted within"),
    ],
)
def test_no_mount_follows_a_link_that_a_container_made(
    cluster: Cluster, tmp_path: Path, mounts: list[Object], message: str
) -> None:
    scratch = {"name": "scratch", "emptyDir": {}}
    with pytest.raises(ConfigurationError, match=message):
        mounted(
            cluster, tmp_path, a_pod(volumes=[scratch]), *({"name": "scratch", **mount} for mount in mounts)
        )


def test_unknown_volumes_and_commands_are_refused(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="volume v: hostPath is not supported here"):
        a_sandbox(cluster, tmp_path, a_pod(volumes=[{"name": "v", "hostPath": {}}])).write_volumes()
    with pytest.raises(ConfigurationError, match="has no command"):
        a_sandbox(cluster, tmp_path, a_pod()).command(ours(command=[], args=["x"]))
