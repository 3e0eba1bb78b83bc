"""An idle machine is suspended, a request wakes it, and the program sees no change in either.

Machines are only reported here: a small server in the guest's place answers what its agent would.
"""

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import urllib3
from kubernetes import client
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.conftest import Platform
from tests.integration.machines import call, place, state, wait_for
from tests.integration.sleeping import ask, print_token, suspend
from tests.integration.test_interruption import kill_server

pytestmark = pytest.mark.integration

TENANT = "acme"
NAMESPACE = f"tenant-{TENANT}"
VISITORS = 40
SUSPENDER = "system:serviceaccount:platform-system:idle-suspender"


class Agent(BaseHTTPRequestHandler):
    """What answers in a guest, as far as a visitor sees."""

    def do_GET(self) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_arguments: Any) -> None:
        pass


@pytest.fixture(scope="module", autouse=True)
def _guest(platform: Platform) -> Iterator[None]:
    """Stand in for the guest wherever the machine gets an address."""
    done = threading.Event()
    serving: dict[str, ThreadingHTTPServer] = {}

    def follow() -> None:
        while not done.wait(0.1):
            try:
                address = guest_address(platform)
            except urllib3.exceptions.HTTPError:  # no API server just now, which ends no guest
                continue
            for gone in serving.keys() - {address}:
                end(serving.pop(gone))
            if address and address not in serving:
                with contextlib.suppress(OSError):
                    server = serving[address] = ThreadingHTTPServer((address, 8080), Agent)
                    threading.Thread(target=server.serve_forever, daemon=True).start()
        for server in serving.values():
            end(server)

    thread = threading.Thread(target=follow)
    thread.start()
    yield
    done.set()
    thread.join()


@pytest.fixture(scope="module")
def token(platform: Platform) -> str:
    return print_token(platform, TENANT)


@pytest.fixture(autouse=True)
def _awake_before_and_after(platform: Platform) -> Iterator[None]:
    wait_for(platform, TENANT, "Running")
    yield
    if wait_for(platform, TENANT, "Stopped", "Running") != "Running":
        with contextlib.suppress(subprocess.CalledProcessError):  # started meanwhile
            call(platform, TENANT, "start")
    wait_for(platform, TENANT, "Running")


def guest_address(platform: Platform) -> str:
    try:
        found = platform.objects().get_namespaced_custom_object(
            *place(TENANT)[:3], "virtualmachineinstances", NAMESPACE
        )
    except client.ApiException:
        return ""
    interfaces = found.get("status", {}).get("interfaces") or [{}]
    running = found.get("status", {}).get("phase") == "Running"
    return str(interfaces[0].get("ipAddress", "")) if running else ""


def end(server: ThreadingHTTPServer) -> None:
    """Let nobody wait for an answer any more."""
    server.shutdown()
    server.server_close()


def get(platform: Platform, token: str = "") -> int:
    return ask(platform, TENANT, token)[0]


def starts(platform: Platform) -> float:
    """How many starts of its machine KubeVirt took from the gateways."""
    pods = platform.core().list_namespaced_pod("gateway").items
    told = [urllib3.request("GET", f"http://{pod.status.pod_ip}:9090/metrics").data.decode() for pod in pods]
    assert len(told) == 2
    return sum(
        sample.value
        for text in told
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "gateway_starts_total" and sample.labels["tenant"] == TENANT
    )


def until(holds: Callable[[], Any], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_an_idle_machine_is_suspended_and_woken_once_by_many_requests(platform: Platform, token: str) -> None:
    suspend(platform, TENANT)
    tenant = next(one for one in platform.status()["tenants"] if one["id"] == TENANT)
    assert (tenant["sleep"], tenant["reason"][:5]) == ("asleep", "idle ")
    events = platform.core().list_namespaced_event(NAMESPACE).items
    assert [one for one in events if one.source.component == "idle-suspender" and one.reason == "Suspended"]
    assert platform.changes() == {}

    assert get(platform) == HTTPStatus.UNAUTHORIZED
    assert state(platform, TENANT) == "Stopped"

    before = starts(platform)
    with ThreadPoolExecutor(VISITORS) as visitors:
        answers = [visitors.submit(get, platform, token) for _ in range(VISITORS)]
    assert [answer.result() for answer in answers] == [HTTPStatus.OK] * VISITORS
    assert starts(platform) == before + 1
    wait_for(platform, TENANT, "Running")
    tenant = next(one for one in platform.status()["tenants"] if one["id"] == TENANT)
    assert tenant["last_wake"]["seconds"] > 0


@pytest.mark.parametrize("server", ["redis", "kube-apiserver", "virt-controller", "node-agent", "vault"])
def test_requests_that_wait_outlive_a_server_that_is_killed(
    platform: Platform, token: str, server: str
) -> None:
    suspend(platform, TENANT)

    with ThreadPoolExecutor(VISITORS) as visitors:
        answers = [visitors.submit(get, platform, token) for _ in range(VISITORS)]
        kill_server(platform, server)
        platform.start_servers()
        assert [answer.result() for answer in answers] == [HTTPStatus.OK] * VISITORS

    wait_for(platform, TENANT, "Running")


def test_after_all_that_an_update_has_nothing_to_do(platform: Platform) -> None:
    assert platform.changes() == {}


def test_a_suspended_tenant_is_not_woken(platform: Platform, token: str) -> None:
    call(platform, TENANT, "stop")
    wait_for(platform, TENANT, "Stopped")
    route = platform.core().read_namespaced_config_map(f"route-{TENANT}", "gateway").data["route.json"]
    try:
        rewritten = route.replace('"active"', '"suspended"')
        assert rewritten != route
        write_route(platform, rewritten)
        until(lambda: get(platform, token) == HTTPStatus.FORBIDDEN)
        assert get(platform, token) == HTTPStatus.FORBIDDEN
        assert state(platform, TENANT) == "Stopped"
    finally:
        write_route(platform, route)


def write_route(platform: Platform, route: str) -> None:
    platform.core().patch_namespaced_config_map(f"route-{TENANT}", "gateway", {"data": {"route.json": route}})


def test_the_suspender_may_list_and_stop_machines_and_leave_events_and_nothing_else(
    platform: Platform,
) -> None:
    review = client.AuthorizationV1Api(platform.core().api_client)

    def allowed(verb: str, group: str, resource: str, subresource: str = "") -> bool:
        answer = review.create_subject_access_review(
            client.V1SubjectAccessReview(
                spec=client.V1SubjectAccessReviewSpec(
                    user=SUSPENDER,
                    groups=["system:serviceaccounts", "system:authenticated"],
                    resource_attributes=client.V1ResourceAttributes(
                        namespace=NAMESPACE,
                        verb=verb,
                        group=group,
                        resource=resource,
                        subresource=subresource,
                    ),
                )
            )
        )
        assert answer.status
        return bool(answer.status.allowed)

    verbs = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
    kubevirt, subresources = "kubevirt.io", "subresources.kubevirt.io"
    asked = [
        *((kubevirt, resource, "") for resource in ("virtualmachines", "virtualmachineinstances")),
        *((subresources, "virtualmachines", action) for action in ("stop", "start", "restart", "migrate")),
        *(
            (subresources, "virtualmachineinstances", part)
            for part in ("console", "vnc", "pause", "portforward")
        ),
        *(("", resource, "") for resource in ("events", "pods", "secrets", "configmaps", "namespaces")),
        ("", "pods", "exec"),
        ("", "serviceaccounts", "token"),
        ("apps", "deployments", ""),
        ("batch", "jobs", ""),
        ("rbac.authorization.k8s.io", "clusterrolebindings", ""),
    ]
    granted = {(verb, *what) for what in asked for verb in verbs if allowed(verb, *what)}

    assert granted == {
        ("list", kubevirt, "virtualmachines", ""),
        ("update", subresources, "virtualmachines", "stop"),
        ("create", "", "events", ""),
    }


def test_the_suspenders_own_token_reads_machines_and_no_secret(platform: Platform) -> None:
    request = client.AuthenticationV1TokenRequest(
        spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=600)
    )
    issued = platform.core().create_namespaced_service_account_token(
        "idle-suspender", "platform-system", request
    )
    configuration = client.Configuration()
    administrator = platform.core().api_client.configuration
    configuration.host, configuration.ssl_ca_cert = administrator.host, administrator.ssl_ca_cert
    configuration.api_key = {"BearerToken": f"Bearer {issued.status.token}"}
    suspender = client.ApiClient(configuration)

    objects: Any = client.CustomObjectsApi(suspender)
    found = objects.list_cluster_custom_object(*place(TENANT)[:2], "virtualmachines")
    assert TENANT in {one["metadata"]["labels"].get("tenant-id") for one in found["items"]}
    with pytest.raises(client.ApiException) as refused:
        client.CoreV1Api(suspender).list_namespaced_secret(NAMESPACE)
    assert refused.value.status == HTTPStatus.FORBIDDEN
