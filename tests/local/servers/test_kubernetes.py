import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

import pytest
import urllib3
from cryptography import x509
from rich.console import Console

from local import ports, supervisor, toolchain
from local.errors import LocalError
from local.paths import DATA, ROOT
from local.servers import Module, certificates, controller_manager, kubernetes, kubernetes_api, kubevirt
from local.supervisor import NotReady, wait_until

pytestmark = pytest.mark.integration

VMS = "/apis/kubevirt.io/v1/namespaces/machines/virtualmachines"
SUBRESOURCES = "/apis/subresources.kubevirt.io/v1/namespaces/machines/virtualmachines"
MODULES: tuple[Module, ...] = (kubernetes, kubevirt, controller_manager)


@pytest.fixture(scope="module", autouse=True)
def _servers(up: Callable[[Module], None], console: Console) -> Iterator[None]:
    toolchain.ensure(console)
    try:
        for module in MODULES:
            up(module)
        yield
    finally:
        for module in reversed(MODULES):
            for service in reversed(module.services()):
                supervisor.stop(service.name)


@pytest.fixture(scope="module", autouse=True)
def _namespace(_servers: None) -> None:
    namespace("machines")


def namespace(name: str) -> None:
    kubernetes_api.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}])


def ask(
    method: str, path: str, body: Any = None, *, identity: tuple[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    """Ask the API as a client with a certificate would; the administrator's unless another is given."""
    pair = certificates.path(kubernetes_api.ADMIN)
    if identity:
        pair = DATA / "identity.pem"
        pair.write_text("".join(identity))
    with urllib3.PoolManager(
        ca_certs=str(certificates.CA_FILE), cert_file=str(pair), key_file=str(pair)
    ) as pool:
        response = pool.request(
            method,
            kubernetes.API_URL() + path,
            body=None if body is None else json.dumps(body),
            headers={"Content-Type": "application/json"},
            retries=False,
        )
    return response.status, json.loads(response.data or b"{}")


def machine(name: str, strategy: str = "RerunOnFailure") -> dict[str, Any]:
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": name, "namespace": "machines"},
        "spec": {
            "runStrategy": strategy,
            "template": {
                "spec": {
                    "domain": {
                        "memory": {"guest": "128Mi"},
                        "devices": {"disks": [{"name": "system", "disk": {"bus": "virtio"}}]},
                    },
                    "volumes": [{"name": "system", "containerDisk": {"image": "registry.example/a:1"}}],
                }
            },
        },
    }


def until(holds: Callable[[], bool], what: str) -> None:
    def ready() -> None:
        if not holds():
            raise NotReady("not yet")

    wait_until(ready, timeout=60, what=what)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_works_with_what_make_env_exports() -> None:
    done = subprocess.run(
        ["kubectl", "get", "crd", "-o", "name"],
        env=os.environ | kubernetes.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "customresourcedefinition.apiextensions.k8s.io/recurringjobs.longhorn.io" in done.stdout
    assert "customresourcedefinition.apiextensions.k8s.io/virtualmachines.kubevirt.io" in done.stdout


def test_the_servers_know_their_pinned_version() -> None:
    pins = (ROOT / "local/toolchain/kubernetes/go.mod").read_text()
    version = kubernetes_api.get("/version")["gitVersion"]
    assert f"k8s.io/kubernetes {version}\n" in pins


def test_a_stranger_is_refused() -> None:
    with urllib3.PoolManager(ca_certs=str(certificates.CA_FILE)) as pool:
        response = pool.request("GET", kubernetes.API_URL() + "/api/v1/secrets", retries=False)
    assert response.status == HTTPStatus.FORBIDDEN


def test_an_issued_certificate_has_its_user_its_groups_and_an_end() -> None:
    identity = kubernetes.issue_client_certificate("alice", ["readers"], 600)
    certificate = x509.load_pem_x509_certificate(identity[0].encode())
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).total_seconds() == 900
    status, review = ask(
        "POST",
        "/apis/authentication.k8s.io/v1/selfsubjectreviews",
        {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"},
        identity=identity,
    )
    assert status == HTTPStatus.CREATED
    assert review["status"]["userInfo"]["username"] == "alice"
    assert set(review["status"]["userInfo"]["groups"]) == {"readers", "system:authenticated"}
    assert ask("GET", "/api/v1/secrets", identity=identity)[0] == HTTPStatus.FORBIDDEN


def test_etcd_takes_no_certificate_but_the_api_servers() -> None:
    url = f"https://127.0.0.1:{ports.port('etcd')}/health"
    kubernetes_api.check(url, "etcd-client")
    for certificate in (kubernetes_api.ADMIN, None):
        with pytest.raises(NotReady):
            kubernetes_api.check(url, certificate)


def test_a_service_accounts_token_is_issued_and_reviewed() -> None:
    until(
        lambda: ask("GET", "/api/v1/namespaces/machines/serviceaccounts/default")[0] == HTTPStatus.OK,
        "the default service account",
    )
    status, issued = ask(
        "POST",
        "/api/v1/namespaces/machines/serviceaccounts/default/token",
        {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}},
    )
    assert status == HTTPStatus.CREATED
    _, review = ask(
        "POST",
        "/apis/authentication.k8s.io/v1/tokenreviews",
        {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": issued["status"]["token"]},
        },
    )
    assert review["status"]["authenticated"]
    assert review["status"]["user"]["username"] == "system:serviceaccount:machines:default"


def test_a_restricted_namespace_refuses_a_privileged_pod() -> None:
    kubernetes_api.apply(
        [
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {
                    "name": "restricted",
                    "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
                },
            }
        ]
    )
    container = {"name": "a", "image": "a", "securityContext": {"privileged": True}}
    pod = {"metadata": {"name": "a"}, "spec": {"containers": [container]}}
    until(
        lambda: ask("GET", "/api/v1/namespaces/restricted/serviceaccounts/default")[0] == HTTPStatus.OK,
        "the default service account",
    )
    status, answer = ask("POST", "/api/v1/namespaces/restricted/pods", pod)
    assert status == HTTPStatus.FORBIDDEN
    assert "PodSecurity" in answer["message"]


def test_kubevirt_refuses_a_broken_machine() -> None:
    status, answer = ask("POST", VMS, machine("broken", "Sometimes"))
    assert status == HTTPStatus.UNPROCESSABLE_ENTITY
    assert "Invalid RunStrategy (Sometimes)" in answer["message"]


def test_a_machine_gets_an_instance_and_is_stopped_and_started_by_its_subresources() -> None:
    assert ask("POST", VMS, machine("good"))[0] == HTTPStatus.CREATED
    instance = f"{VMS.removesuffix('virtualmachines')}virtualmachineinstances/good"
    until(lambda: ask("GET", instance)[0] == HTTPStatus.OK, "the instance")
    until(lambda: launchers("good") == 1, "the launcher Pod")

    assert ask("PUT", f"{SUBRESOURCES}/good/stop", {})[0] == HTTPStatus.ACCEPTED
    until(lambda: ask("GET", instance)[0] == HTTPStatus.NOT_FOUND, "the instance's end")
    assert ask("PUT", f"{SUBRESOURCES}/good/stop", {})[0] == HTTPStatus.CONFLICT
    assert ask("PUT", f"{SUBRESOURCES}/good/start", {})[0] == HTTPStatus.ACCEPTED
    until(lambda: ask("GET", instance)[0] == HTTPStatus.OK, "the instance again")
    _, found = ask("GET", f"{VMS}/good")
    assert found["spec"]["runStrategy"] == "RerunOnFailure"


def launchers(name: str) -> int:
    selector = f"?labelSelector=vm.kubevirt.io/name={name}"
    return len(ask("GET", f"/api/v1/namespaces/machines/pods{selector}")[1]["items"])


def test_the_controllers_act_as_service_accounts_not_as_administrators() -> None:
    for name, account in (("virt-api", "kubevirt-apiserver"), ("virt-controller", "kubevirt-controller")):
        shown = x509.load_pem_x509_certificate(certificates.path(f"{name}-client").read_bytes()).subject
        assert f"CN=system:serviceaccount:kubevirt:{account}" in shown.rfc4514_string()
        assert "system:masters" not in shown.rfc4514_string()


def test_a_second_start_leaves_the_servers_alone(up: Callable[[Module], None]) -> None:
    before = pids()
    for module in MODULES:
        up(module)
    assert pids() == before


def test_killed_servers_come_back_with_their_data(
    up: Callable[[Module], None], kill: Callable[[Module], None]
) -> None:
    namespace("kept")
    for module in reversed(MODULES):
        kill(module)
    with pytest.raises(LocalError, match="does not answer"):
        kubernetes_api.get("/api/v1/namespaces/kept")
    for module in MODULES:
        up(module)
    assert kubernetes_api.get("/api/v1/namespaces/kept")["metadata"]["name"] == "kept"
    assert ask("POST", VMS, machine("after", "Sometimes"))[0] == HTTPStatus.UNPROCESSABLE_ENTITY


def pids() -> list[int | None]:
    return [supervisor.status(service).pid for module in MODULES for service in module.services()]


def test_what_the_folder_holds_is_its_owners_only() -> None:
    private = [kubernetes.KUBECONFIG, *(DATA / "certificates").glob("*.pem"), DATA / "certificates/ca.key"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in private)


def test_what_is_applied_again_is_left_alone_until_it_is_given_otherwise_or_gone() -> None:
    def applied(value: str) -> str:
        metadata = {"name": "again", "namespace": "machines"}
        item = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a": value}}
        kubernetes_api.apply([item])
        return str(kubernetes_api.get(path)["data"]["a"])

    path = "/api/v1/namespaces/machines/configmaps/again"
    assert applied("1") == "1"
    assert ask("DELETE", path)[0] == HTTPStatus.OK
    assert applied("1") == "1"
    kubernetes_api.merge(path, {"data": {"a": "by hand"}})
    assert applied("1") == "by hand"
    assert applied("2") == "2"


def test_an_object_of_an_unknown_kind_is_told() -> None:
    unknown = {"apiVersion": "v1", "kind": "Nothing", "metadata": {"name": "a"}}
    with pytest.raises(LocalError, match="serves no Nothing in v1"):
        kubernetes_api.apply([unknown])
