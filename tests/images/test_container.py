"""Each image of a service is started as a node would start it, confined as the program declares its pods."""

import json
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from images import container, debian
from images.build import build, built
from infra.platform.envoy import OPTIONS, PUBLIC_PORT, Envoy
from local.consoles import console
from local.errors import LocalError
from tests.services.gateway import harness
from tests.services.gateway.test_routes import declared

ADDRESS = "127.79.0.1"
_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


def image(name: str, *, cold: bool = True) -> Path:
    """Return the folder of an image; skip where it cannot be built or started."""
    if obstacle := container.obstacle():
        pytest.skip(f"no image can be started here: {obstacle}")
    if found := built(name):
        return found
    if not cold:
        pytest.skip(f"{name} is not built here, which takes minutes (`make images`)")
    try:
        debian.check()
    except LocalError as error:
        pytest.skip(str(error))
    return build(name, console())


def account(folder: Path) -> dict[str, Path]:
    """Return what a pod finds of its account, at an API server that is away."""
    folder.mkdir()
    for name, text in (("token", "x"), ("namespace", "gateway")):
        (folder / name).write_text(text)
    (folder / "ca.crt").write_bytes((folder.parent / "tls.crt").read_bytes())
    return {_ACCOUNT: folder}


def environment(folder: Path) -> dict[str, str]:
    """Return the way to a Redis and a Kubernetes API that are away."""
    (folder / "password").write_text("x")
    return {
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": "1",
        "REDIS_URL": "redis://gateway@127.0.0.1:1",
        "REDIS_PASSWORD_FILE": "/etc/given/password",
    }


def until_it_answers(url: str, process: "subprocess.Popen[bytes]", log: Path) -> httpx.Response:
    deadline = time.monotonic() + 60
    while True:
        try:
            return httpx.get(url, verify=False, trust_env=False, timeout=5)
        except httpx.HTTPError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)


def test_envoy_and_the_gateway_meet_in_their_containers(tmp_path: Path) -> None:
    found = image("gateway")
    given, sockets, log = tmp_path / "given", tmp_path / "sockets", tmp_path / "log"
    for folder in (given, sockets):
        folder.mkdir()
    sockets.chmod(0o777)
    harness.make_certificate(given)
    (tmp_path / "tls.crt").write_bytes((given / "tls.crt").read_bytes())
    keys = json.loads(declared()["data"]["route.json"])["keys"]
    (given / "operators.json").write_text(json.dumps(keys))
    key = harness.KEYS["assertions"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (given / "assertions.pem").write_bytes(key)
    envoy = Envoy(
        domain=harness.DOMAIN,
        address=ADDRESS,
        sockets="/run/gateway",
        certificates={"public": "/etc/given", "agents": "/etc/given"},
        secrets="/etc/given",
    )
    for name, text in envoy.certificate_files().items():
        (given / name).write_text(text)
    shared = {"/run/gateway": sockets, "/etc/given": given}
    told = {
        **environment(given),
        "DOMAIN": harness.DOMAIN,
        "POD_NAME": "gateway-1",
        "POD_IP": ADDRESS,
        "SOCKETS": "/run/gateway",
        "OPERATOR_KEYS": "/etc/given/operators.json",
        "ASSERTION_KEY": "/etc/given/assertions.pem",
        "ROUTES_NAMESPACE": "gateway",
    }
    edge = ["envoy", *OPTIONS, "--config-yaml", envoy.bootstrap()]
    program = ["python3", "-m", "services.gateway"]
    url = f"https://{ADDRESS}:{PUBLIC_PORT}/.gateway/readyz"
    with container.started(found, edge, {}, shared, log) as process:
        assert until_it_answers(url, process, log).headers["retry-after"] == "2"  # nobody is behind it yet
        files = {**shared, **account(tmp_path / "account")}
        with container.started(found, program, told, files, tmp_path / "gateway.log") as served:
            deadline = time.monotonic() + 20
            while (
                answer := until_it_answers(url, served, tmp_path / "gateway.log")
            ).text != "The gateway is not ready.\n":
                assert time.monotonic() < deadline, (tmp_path / "gateway.log").read_text()
                time.sleep(0.1)
            # As the Kubernetes API is away.
            assert answer.status_code == 503


def test_the_exporter_tells_which_servers_are_away(tmp_path: Path) -> None:
    found = image("gateway")
    harness.make_certificate(tmp_path)
    given, log = tmp_path / "given", tmp_path / "log"
    given.mkdir()
    told = {
        **environment(given),
        "POD_IP": ADDRESS,
        "ROUTES_NAMESPACE": "gateway",
        "PGHOST": "127.0.0.1",
        "PGPORT": "1",
        "PGUSER": "monitoring",
        "PGDATABASE": "agents",
        "PGPASSWORD_FILE": "/etc/given/password",
    }
    files = {"/etc/given": given, **account(tmp_path / "account")}
    with container.started(found, ["python3", "-m", "services.exporter"], told, files, log) as process:
        text = until_it_answers(f"http://{ADDRESS}:9090/metrics", process, log).text
    for source in ("redis", "postgresql"):
        assert f'agent_platform_source_up{{source="{source}"}} 0.0' in text


def run(
    found: Path, program: list[str], told: Mapping[str, str], folders: Mapping[str, Path]
) -> tuple[int, str]:
    log = folders["/tmp"].parent / "log"
    with container.started(found, program, told, folders, log) as process:
        status = process.wait(60)
    return status, log.read_text()


def test_the_idle_suspender_says_what_is_away(tmp_path: Path) -> None:
    found = image("idle-suspender")
    harness.make_certificate(tmp_path)
    given, written = tmp_path / "given", tmp_path / "written"
    given.mkdir()
    written.mkdir()
    files = {"/tmp": written, "/etc/given": given, **account(tmp_path / "account")}

    status, said = run(found, ["python3", "-m", "services.idle_suspender"], environment(given), files)

    assert (status, said.count("\n")) == (1, 1), said
    assert "left running: " in said


def test_a_container_can_write_nowhere_else_and_gain_nothing(tmp_path: Path) -> None:
    found = image("idle-suspender")
    written = tmp_path / "written"
    written.mkdir()
    tried = """
import os
try: open("/x", "w")
except OSError as error: print(os.getuid(), error.errno, open("/proc/self/status").read())
"""
    status, said = run(found, ["python3", "-c", tried], {}, {"/tmp": written})

    assert status == 0, said
    assert said.startswith("65532 30 "), said  # EROFS
    fields = dict(line.split(":\t", 1) for line in said.splitlines() if ":\t" in line)
    assert {int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")


def test_the_runtime_answers_before_it_knows_whose_it_is(tmp_path: Path) -> None:
    found = image("agent-runtime", cold=False)
    written = tmp_path / "written"
    written.mkdir()
    log = tmp_path / "log"
    told = {"POD_IP": ADDRESS, "VAULT_ADDR": "https://127.0.0.1:1"}
    program = ["python3", "-m", "services.agent_runtime"]
    with container.started(found, program, told, {"/tmp": written}, log) as process:
        answer = until_it_answers(f"http://{ADDRESS}:8080/readyz", process, log)
    assert answer.status_code in (200, 503)
