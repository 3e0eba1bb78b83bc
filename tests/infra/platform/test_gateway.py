"""The gateway and the idle suspender as declared: what they may, what they are told, who reaches them."""

import json
import re
from pathlib import Path
from typing import Any, cast

import pytest

from infra.errors import ConfigurationError
from infra.platform import envoy
from services.gateway.settings import Settings
from tests.infra.platform.test_platform import platform, secret
from tests.infra.recording import CERTIFICATE, SECRETS, Recorder, local_stack, stack

GATEWAY, SUSPENDER = "platform-gateway", "platform-idle-suspender"


@pytest.fixture(scope="module", params=["managed", "given"])
def declared(request: pytest.FixtureRequest) -> Recorder:
    return platform(stack("prod")) if request.param == "managed" else platform(local_stack(), SECRETS)


@pytest.fixture(scope="module")
def given() -> Recorder:
    return platform(local_stack(), SECRETS)


@pytest.fixture(scope="module")
def managed() -> Recorder:
    return platform(stack("prod"))


def gateway_pod(recorder: Recorder) -> dict[str, Any]:
    pod: dict[str, Any] = recorder[f"{GATEWAY}-deployment"].inputs["spec"]["template"]["spec"]
    return pod


def suspender_pod(recorder: Recorder) -> dict[str, Any]:
    job: dict[str, Any] = recorder[f"{SUSPENDER}-job"].inputs["spec"]["jobTemplate"]["spec"]
    pod: dict[str, Any] = job["template"]["spec"]
    return pod


def environment(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["containers"]
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


def may(recorder: Recorder, role: str) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in recorder[role].inputs["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_idle_suspender_may_see_and_stop_machines_say_why_and_nothing_else(declared: Recorder) -> None:
    assert may(declared, f"{SUSPENDER}-role") == {
        ("kubevirt.io", "virtualmachines", "list"),
        ("subresources.kubevirt.io", "virtualmachines/stop", "update"),
        ("", "events", "create"),
    }
    (subject,) = declared[f"{SUSPENDER}-binding"].inputs["subjects"]
    assert (subject["name"], subject["namespace"]) == ("idle-suspender", "platform-system")


def test_the_gateway_may_find_agents_start_machines_and_nothing_else(declared: Recorder) -> None:
    watched = (
        ("kubevirt.io", "virtualmachines"),
        ("kubevirt.io", "virtualmachineinstances"),
        ("", "pods"),
    )
    assert may(declared, f"{GATEWAY}-role") == {
        *((*kind, verb) for kind in watched for verb in ("list", "watch")),
        ("subresources.kubevirt.io", "virtualmachines/start", "update"),
        ("authentication.k8s.io", "tokenreviews", "create"),
        ("", "events", "create"),
    }
    assert may(declared, f"{GATEWAY}-routes-role") == {
        ("", "configmaps", verb) for verb in ("get", "list", "watch")
    }
    assert declared[f"{GATEWAY}-routes-role"].inputs["metadata"]["namespace"] == "gateway"


def test_a_sweep_runs_each_minute_and_ends_before_the_next(declared: Recorder) -> None:
    spec = declared[f"{SUSPENDER}-job"].inputs["spec"]
    job = spec["jobTemplate"]["spec"]
    assert (spec["schedule"], spec["concurrencyPolicy"]) == ("* * * * *", "Forbid")
    assert (job["activeDeadlineSeconds"], job["backoffLimit"]) == (50, 0)
    assert job["template"]["spec"]["restartPolicy"] == "Never"


@pytest.mark.parametrize("pod", [gateway_pod, suspender_pod])
def test_a_service_has_one_short_lived_token_and_writes_nowhere(declared: Recorder, pod: Any) -> None:
    spec = pod(declared)
    assert spec["automountServiceAccountToken"] is False
    tokens = [
        source["serviceAccountToken"]
        for volume in spec["volumes"]
        for source in volume.get("projected", {}).get("sources", ())
        if "serviceAccountToken" in source
    ]
    assert tokens == [{"path": "token", "expirationSeconds": 3600}]
    (container,) = spec["containers"]
    written = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
    # Where it meets Envoy, in memory.
    assert written == (["/run/gateway"] if pod is gateway_pod else [])
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_pods_are_told_where_things_are(managed: Recorder, given: Recorder) -> None:
    told = environment(gateway_pod(managed))
    assert told["DOMAIN"] == "agents.example.ch"
    assert told["REDIS_URL"] == "rediss://gateway@valkey.activity.svc:6379"
    assert told["REDIS_CA_FILE"] == "/etc/redis/ca.crt"
    assert told["POD_IP"]["fieldRef"]["fieldPath"] == "status.podIP"
    told = environment(gateway_pod(given))
    assert told["REDIS_URL"] == "redis://gateway@127.0.0.1:6379"
    assert "REDIS_CA_FILE" not in told
    assert environment(suspender_pod(given))["REDIS_URL"] == "redis://idle-suspender@127.0.0.1:6379"


def test_every_file_that_is_named_is_mounted(declared: Recorder) -> None:
    (container,) = gateway_pod(declared)["containers"]
    folders = {mount["mountPath"] for mount in container["volumeMounts"]}
    files = [
        value
        for value in environment(gateway_pod(declared)).values()
        if isinstance(value, str) and value.startswith("/")
    ]
    assert len(files) >= 4
    assert {file for file in files if not {file, file.rpartition("/")[0]} & folders} == set()


def test_its_pods_are_apart_and_go_one_after_the_other(declared: Recorder) -> None:
    deployment = declared[f"{GATEWAY}-deployment"].inputs["spec"]
    pod = deployment["template"]["spec"]
    (term,) = pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert deployment["replicas"] == 2
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert declared[f"{GATEWAY}-disruption"].inputs["spec"]["maxUnavailable"] == 1
    (container,) = pod["containers"]
    wait = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > wait + 25


def test_everybody_reaches_one_port_and_agents_another(declared: Recorder) -> None:
    entrance = declared[f"{GATEWAY}-entrance"].inputs
    assert entrance["spec"]["type"] == "LoadBalancer"
    assert entrance["spec"]["externalTrafficPolicy"] == "Local"
    assert [(port["port"], port["targetPort"]) for port in entrance["spec"]["ports"]] == [(443, "public")]
    service = declared[f"{GATEWAY}-service"].inputs
    assert "type" not in service["spec"]
    assert [port["port"] for port in service["spec"]["ports"]] == [8444]


def test_the_network_around_both_is_closed(declared: Recorder) -> None:
    ports = {
        one.name.removeprefix("platform-"): [
            port["port"]
            for direction in ("ingress", "egress")
            for rule in one.inputs["spec"].get(direction, ())
            for port in rule["ports"]
        ]
        for one in declared.of_type("kubernetes:networking.k8s.io/v1:NetworkPolicy")
        if one.name.startswith((GATEWAY, SUSPENDER))
    }
    redis = ports["gateway-to-redis"]
    # Operators' only way to Grafana, where there is one.
    assert ports.pop("gateway-to-grafana", [3000]) == [3000]
    assert ports == {
        "gateway-default-deny": [],
        "gateway-from-internet": [8443],
        "gateway-from-agents": [8444],
        "gateway-from-monitoring": [9090, 9091],
        "gateway-from-accounting": [9090],
        "gateway-to-dns": [53, 53],
        "gateway-to-kubernetes": [443, 6443],
        "gateway-to-redis": redis,
        "gateway-to-agents": [8080],
        "idle-suspender-default-deny": [],
        "idle-suspender-to-dns": [53, 53],
        "idle-suspender-to-kubernetes": [443, 6443],
        "idle-suspender-to-redis": redis,
    }
    closed = declared[f"{SUSPENDER}-default-deny"].inputs
    assert closed["metadata"]["name"] == "idle-suspender-default-deny"
    assert closed["spec"]["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "idle-suspender"}}


def test_operators_sign_with_a_key_that_only_they_read(declared: Recorder) -> None:
    kept = declared[f"{GATEWAY}-operators"].inputs
    assert (kept["mount"], kept["name"]) == ("tenants", "console/gateway")
    assert json.loads(secret(kept["dataJson"]))["private_key"] == "drawn-signing-key"
    (public,) = json.loads(declared[f"{GATEWAY}-configuration"].inputs["data"]["operators.json"])["keys"]
    assert "drawn-signing-key" not in json.dumps(public)


def test_agents_verify_a_certificate_of_the_platforms_own_where_everybodys_is_public() -> None:
    values = stack("prod")
    values["gateway"] = {"certificate": {"given": {}}}
    values["domain"] = "agents.localhost"
    pair = {name: SECRETS[name] for name in ("gatewayCertificate", "gatewayKey")}
    recorder = platform(values, pair)
    told = Settings.read(environment(gateway_pod(recorder)))
    files = recorder[f"{GATEWAY}-configuration"].inputs["data"]
    assert '"/etc/gateway-tls/tls.crt"' in files["public.json"]
    assert '"/etc/gateway-agents-tls/tls.crt"' in files["agents.json"]
    assert told.domain == "agents.localhost"
    issued = recorder["platform-certificates-gateway-agents-tls"].inputs
    assert issued["spec"]["dnsNames"] == ["gateway.gateway.svc"]
    assert secret(recorder[f"{GATEWAY}-tls"].inputs["stringData"])["tls.crt"] == CERTIFICATE


def envoy_container(recorder: Recorder) -> dict[str, Any]:
    (container,) = gateway_pod(recorder)["initContainers"]
    return cast(dict[str, Any], container)


def test_envoy_runs_beside_the_gateway_and_is_as_confined(declared: Recorder) -> None:
    (gateway,), beside = gateway_pod(declared)["containers"], envoy_container(declared)
    assert beside["restartPolicy"] == "Always"
    assert beside["image"] == gateway["image"]
    assert beside["securityContext"] == gateway["securityContext"]
    written = [mount["mountPath"] for mount in beside["volumeMounts"] if not mount.get("readOnly")]
    assert written == ["/run/gateway"]
    mounted = {mount["mountPath"] for mount in beside["volumeMounts"]}
    # Neither the account's token, nor the way into Redis, nor the key that vouches for requests.
    assert mounted <= {"/etc/gateway", "/etc/gateway-tls", "/etc/gateway-agents-tls", "/run/gateway"}
    assert "/etc/gateway-tls" not in {mount["mountPath"] for mount in gateway["volumeMounts"]}
    heap = json.loads(beside["args"][-1])["overload_manager"]["resource_monitors"][0]["typed_config"]
    assert heap["max_heap_size_bytes"] < 0.8 * 384 * 2**20
    assert beside["resources"]["limits"]["memory"] == "384Mi"


def test_envoy_finds_what_its_bootstrap_names(declared: Recorder) -> None:
    beside = envoy_container(declared)
    mounted = {mount["mountPath"] for mount in beside["volumeMounts"]}
    files = declared[f"{GATEWAY}-configuration"].inputs["data"]
    bootstrap = beside["args"][-1]
    for path in re.findall(r'"path": "(/[^"]+/[^"/]+\.[a-z]+)"', bootstrap):
        folder, _, name = path.rpartition("/")
        assert folder in mounted
        assert folder == "/run/gateway" or name in files
    for name in ("public.json", "agents.json"):
        (secret_,) = json.loads(files[name])["resources"]
        assert secret_["tls_certificate"]["watched_directory"]["path"] in mounted
    listeners = json.loads(bootstrap)["static_resources"]["listeners"]
    assert {each["address"]["socket_address"]["address"] for each in listeners} == {"$(POD_IP)"}
    assert [each["name"] for each in beside["env"]] == ["POD_IP"]


def test_a_bootstrap_that_envoy_refuses_fails_the_preview_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(envoy._BOUNDS, "drain_timeout", "many seconds")
    with pytest.raises(ConfigurationError, match="Envoy refuses the bootstrap") as refused:
        envoy.check("agents.example.ch")
    assert "drain_timeout" in str(refused.value) and "duration must" in str(refused.value)
    assert len(str(refused.value)) < 1000


def test_without_an_envoy_nobody_says_that_the_bootstrap_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envoy, "executable", lambda: "/nowhere/envoy")
    with pytest.raises(ConfigurationError, match="Envoy cannot be run"):
        envoy.check("agents.example.ch")


def test_the_bootstrap_is_judged_before_the_first_resource_is_registered() -> None:
    program = (Path(__file__).resolve().parents[3] / "infra/__main__.py").read_text()
    assert 0 < program.index("envoy.check(settings.domain, ") < program.index("async def ")
