"""An idle machine is suspended, a request wakes it, and the program sees no change in either.

Machines are only reported here: a small server in the guest's place answers what its agent would.
"""

import asyncio
import contextlib
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any

import httpx
import pytest
import urllib3
from kubernetes import client
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.conftest import Platform
from tests.integration.guest import standing_in
from tests.integration.machines import call, place, state, wait_for
from tests.integration.sleeping import ask, idle_limit, print_token, suspend, sweep
from tests.integration.test_interruption import kill_server

pytestmark = pytest.mark.integration

TENANT = "acme"
NAMESPACE = f"tenant-{TENANT}"
VISITORS = 40
UNHEARD = "dufour"
"""Nobody stands in for the agent in its machine: whoever asks for it is held."""
SUSPENDER = "system:serviceaccount:platform-system:idle-suspender"


@pytest.fixture(scope="module", autouse=True)
def _guest(platform: Platform) -> Iterator[None]:
    with standing_in(platform, TENANT):
        yield


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


def test_a_rolling_restart_answers_who_is_held_and_suspends_no_machine_with_a_stream(
    platform: Platform, token: str
) -> None:
    call(platform, UNHEARD, "stop")
    wait_for(platform, UNHEARD, "Stopped")
    run = machine_run(platform)

    async def check() -> None:
        async with (
            visitor(platform, TENANT, token) as streaming,
            visitor(platform, UNHEARD, print_token(platform, UNHEARD)) as waiting,
        ):
            request = streaming.build_request("GET", "/stream")
            streams = [await streaming.send(request, stream=True) for _ in range(50)]
            assert {stream.status_code for stream in streams} == {HTTPStatus.OK}
            broken = [asyncio.create_task(breaks_off(stream)) for stream in streams]
            held = [asyncio.create_task(waiting.get("/")) for _ in range(100)]
            await asyncio.sleep(2)
            assert not [task for task in (*broken, *held) if task.done()]

            restart = asyncio.create_task(asyncio.to_thread(restart_gateways, platform))
            with idle_limit(platform, TENANT, seconds=1):
                while not restart.done():
                    await asyncio.to_thread(sweep, platform)
                    if not all(task.done() for task in broken):
                        assert state(platform, TENANT) == "Running"
            await restart

            answers = await asyncio.gather(*held)
            assert {answer.status_code for answer in answers} == {HTTPStatus.SERVICE_UNAVAILABLE}
            assert all(int(answer.headers["Retry-After"]) > 0 for answer in answers)
            assert await asyncio.gather(*broken) == [True] * len(streams)

    asyncio.run(check())
    assert get(platform, token) == HTTPStatus.OK
    assert machine_run(platform) == run


def visitor(platform: Platform, tenant: str, token: str) -> httpx.AsyncClient:
    """A client with many connections to a tenant's URL."""
    exports = platform.exports()
    domain, _, port = exports["GATEWAY"].partition(":")

    async def name_it(request: httpx.Request) -> None:
        request.extensions["sni_hostname"] = f"{tenant}.{domain}"

    return httpx.AsyncClient(
        base_url=f"https://127.0.0.1:{port}",
        headers={"Host": f"{tenant}.{domain}:{port}", "Authorization": f"Bearer {token}"},
        verify=ssl.create_default_context(cafile=exports["GATEWAY_CA"]),
        trust_env=False,
        timeout=150,
        limits=httpx.Limits(max_connections=200),
        event_hooks={"request": [name_it]},
    )


async def breaks_off(stream: httpx.Response) -> bool:
    """Read to the end; whether it is seen that more was to come."""
    try:
        async for _ in stream.aiter_raw():
            pass
    except httpx.RemoteProtocolError:
        return True
    return False


def restart_gateways(platform: Platform) -> None:
    """Replace all gateways, one after the other, as an update does."""
    for command in ("restart", "status"):
        subprocess.run(
            ["kubectl", "-n", "gateway", "rollout", command, "deployment/gateway"],
            env=platform.exports(),
            capture_output=True,
            text=True,
            check=True,
        )


def machine_run(platform: Platform) -> str:
    """The present run of the machine: another one has another id."""
    found = platform.objects().get_namespaced_custom_object(
        *place(TENANT)[:3], "virtualmachineinstances", NAMESPACE
    )
    return str(found["metadata"]["uid"])


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
