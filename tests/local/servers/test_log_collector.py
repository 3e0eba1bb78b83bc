"""The real collector, with the program's configuration, between the kubelet's files and a real bucket."""

import gzip
import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import urllib3
import yaml
from rich.console import Console

from infra.platform.logs import configuration
from local import ports, supervisor, toolchain
from local.errors import LocalError
from local.servers import log_collector, object_storage
from local.supervisor import NotReady
from tests.local.servers.conftest import Running
from tests.s3 import owner

BUCKET = "logs"
PATIENCE = 30
Lines = list[tuple[str, str]]
"""Namespace and text of each line."""


@pytest.fixture(scope="module", autouse=True)
def _server(running: Running) -> Iterator[None]:
    toolchain.ensure(Console(), log_collector.PROGRAM)
    with running(object_storage):
        yield


class Node:
    """A node's folders, and the collector on it."""

    def __init__(self, folder: Path, bucket: str) -> None:
        self.folder = folder
        self.owner = owner()
        self.bucket = bucket
        self.process: subprocess.Popen[bytes] | None = None
        self.declared = configuration(object_storage.url(), object_storage.REGION, bucket)
        self.declared["processors"]["batch"]["timeout"] = "1s"
        (folder / "state").mkdir(parents=True)
        self.owner.create_bucket(Bucket=bucket)

    def log(self, namespace: str, container: str = "agent", pod: str = "pod-0") -> Path:
        path = self.folder / "pods" / f"{namespace}_{pod}_5f1c" / container / "0.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def say(
        self, namespace: str, *lines: str, tag: str = "F", end: str = "\n", container: str = "agent"
    ) -> None:
        """Write lines as the kubelet's runtime does."""
        with self.log(namespace, container).open("a") as file:
            for line in lines:
                at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
                file.write(f"{at}000Z stdout {tag} {line}{end}")

    def start(self) -> None:
        rendered = yaml.safe_dump(self.declared).replace("/var/log/pods", str(self.folder / "pods"))
        path = self.folder / "collector.yaml"
        path.write_text(rendered.replace("/var/lib/otelcol", str(self.folder / "state")))
        exports = object_storage.environment()
        environment = {
            "MY_POD_IP": "127.0.0.1",
            "AWS_ACCESS_KEY_ID": exports["AWS_ACCESS_KEY_ID"],
            "AWS_SECRET_ACCESS_KEY": exports["AWS_SECRET_ACCESS_KEY"],
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        }
        log_collector.judge(path, environment)
        with (self.folder / "collector.log").open("ab") as output:
            self.process = subprocess.Popen(
                [toolchain.tool(log_collector.PROGRAM), f"--config={path}"],
                env=environment,
                stdout=output,
                stderr=output,
            )
        health = self.declared["extensions"]["health_check"]["endpoint"]
        supervisor.wait_until(lambda: answers(f"http://{health}/"), timeout=20, what="the collector")

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(timeout=30)

    def archived(self) -> dict[str, Lines]:
        """All lines in the bucket by the folder that they lie in."""
        found: dict[str, Lines] = {}
        for page in self.owner.get_paginator("list_objects_v2").paginate(Bucket=self.bucket):
            for item in page.get("Contents", []):
                body = self.owner.get_object(Bucket=self.bucket, Key=item["Key"])["Body"].read()
                found.setdefault(item["Key"].partition("/20")[0], []).extend(lines(gzip.decompress(body)))
        return found

    def figure(self, name: str) -> float:
        """One of its own figures; 0 while it does not say it."""
        (reader,) = self.declared["service"]["telemetry"]["metrics"]["readers"]
        url = f"http://127.0.0.1:{reader['pull']['exporter']['prometheus']['port']}/metrics"
        told = urllib3.request("GET", url, timeout=5).data.decode()
        found = [line for line in told.splitlines() if line.startswith(f"{name}{{")]
        return float(found[0].split()[-1]) if found else 0

    def wait_for_object(self, prefix: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not self.owner.list_objects_v2(Bucket=self.bucket, Prefix=prefix).get("Contents"):
            assert time.monotonic() < deadline, (self.folder / "collector.log").read_text()[-2000:]
            time.sleep(0.5)

    def wait_for(self, enough: Callable[[dict[str, Lines]], bool]) -> dict[str, Lines]:
        deadline = time.monotonic() + PATIENCE
        while not enough(found := self.archived()):
            assert time.monotonic() < deadline, (found, (self.folder / "collector.log").read_text()[-2000:])
            time.sleep(0.5)
        return found


def answers(url: str) -> None:
    try:
        urllib3.request("GET", url, timeout=5, retries=False)
    except urllib3.exceptions.HTTPError as error:
        raise NotReady(str(error)) from None


def lines(body: bytes) -> Lines:
    """The lines of an object in OTLP/JSON."""
    found = []
    for resource in json.loads(body)["resourceLogs"]:
        attributes = {one["key"]: one["value"] for one in resource["resource"].get("attributes", [])}
        namespace = attributes.get("k8s.namespace.name", {}).get("stringValue", "")
        for scope in resource["scopeLogs"]:
            found += [(namespace, record["body"]["stringValue"]) for record in scope["logRecords"]]
    return found


@pytest.fixture
def node(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Node]:
    name = f"{BUCKET}-{abs(hash(request.node.name))}"
    made = Node(tmp_path / "node", name)
    ports_used = {"13133": ports.port("log-collector"), "8888": ports.port("log-collector-metrics")}
    made.declared["extensions"]["health_check"]["endpoint"] = f"127.0.0.1:{ports_used['13133']}"
    (reader,) = made.declared["service"]["telemetry"]["metrics"]["readers"]
    reader["pull"]["exporter"]["prometheus"]["port"] = ports_used["8888"]
    yield made
    made.end()


def test_each_namespaces_lines_lie_below_a_prefix_of_its_own(node: Node) -> None:
    for number in range(50):
        node.say("tenant-acme", f"acme {number}")
        node.say("tenant-bluebird", f"bluebird {number}")
        node.say("gateway", f"gateway {number}")
    node.start()
    found = node.wait_for(lambda archived: sum(map(len, archived.values())) == 150)
    assert {folder: {namespace for namespace, _ in said} for folder, said in found.items()} == {
        "tenant_acme": {"tenant-acme"},
        "tenant_bluebird": {"tenant-bluebird"},
        "platform/gateway": {"gateway"},
    }
    assert found["tenant_acme"] == [("tenant-acme", f"acme {number}") for number in range(50)]


def test_a_queue_that_batches_would_mix_tenants(node: Node) -> None:
    """It keeps whoever changes the queue from doing so unawares."""
    assert "batch" not in node.declared["exporters"]["awss3"]["sending_queue"]
    queue = node.declared["exporters"]["awss3"]["sending_queue"]
    queue["batch"] = {"flush_timeout": "2s", "min_size": 10**6, "sizer": "bytes"}
    for number in range(50):
        node.say("tenant-acme", f"acme {number}")
        node.say("tenant-bluebird", f"bluebird {number}")
    node.start()
    found = node.wait_for(lambda archived: sum(map(len, archived.values())) == 100)
    assert any(len({namespace for namespace, _ in said}) == 2 for said in found.values())


def test_a_line_in_parts_is_one_line_and_what_has_no_end_comes_too(node: Node) -> None:
    node.say("tenant-acme", "one ", tag="P")
    node.say("tenant-acme", "line", tag="F")
    node.say("tenant-acme", "no end", end="")
    node.start()
    found = node.wait_for(lambda archived: len(archived.get("tenant_acme", [])) == 2)
    assert [text for _, text in found["tenant_acme"]] == ["one line", "no end"]


def test_what_is_no_line_of_the_kubelets_is_nobodys(node: Node) -> None:
    with node.log("tenant-acme").open("a") as file:
        file.write("no time, no stream\n\n")
    node.say("tenant-acme", "a line")
    node.start()
    found = node.wait_for(lambda archived: "tenant_acme" in archived)
    assert found["tenant_acme"] == [("tenant-acme", "a line")]
    assert set(found) <= {"tenant_acme", "platform/_unknown"}


def test_a_tenant_cannot_say_whose_its_lines_are(node: Node) -> None:
    said = json.dumps({"resource": {"archive.prefix": "tenant_bluebird", "k8s.namespace.name": "gateway"}})
    node.say("tenant-acme", said, container="archive-prefix")
    node.start()
    found = node.wait_for(bool)
    assert found == {"tenant_acme": [("tenant-acme", said)]}


def test_lines_wait_for_storage_that_is_away(node: Node) -> None:
    node.say("tenant-acme", "before")
    node.start()
    node.wait_for(lambda archived: "tenant_acme" in archived)
    supervisor.stop("object-storage")
    node.say("tenant-acme", "meanwhile")
    time.sleep(5)
    node.end(signal.SIGKILL)
    supervisor.start(object_storage.services()[0], Console())
    node.start()
    found = node.wait_for(lambda archived: len(archived.get("tenant_acme", [])) >= 2)
    assert [text for _, text in found["tenant_acme"]] == ["before", "meanwhile"]


def test_what_was_rotated_away_meanwhile_is_read_once(node: Node) -> None:
    node.say("tenant-acme", "first")
    node.start()
    node.wait_for(lambda archived: "tenant_acme" in archived)
    node.say("tenant-acme", "second")
    node.wait_for(lambda archived: len(archived["tenant_acme"]) == 2)
    node.end()
    node.say("tenant-acme", *(f"meanwhile {number}" for number in range(50)))
    log = node.log("tenant-acme")
    log.rename(log.with_name("0.log.20261201-120000"))
    log.with_name("0.log.20261201-110000.gz").write_bytes(gzip.compress(b"older"))
    node.say("tenant-acme", "last")
    node.start()
    found = node.wait_for(lambda archived: len(archived["tenant_acme"]) >= 53)
    assert [text for _, text in found["tenant_acme"]].count("first") == 1
    assert len(set(found["tenant_acme"])) == len(found["tenant_acme"]) == 53


def test_a_loud_tenant_does_not_hold_up_the_platforms_lines(node: Node) -> None:
    node.start()
    ended = threading.Event()

    def shout() -> None:
        with node.log("tenant-loud").open("a") as file:
            while not ended.is_set():
                at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
                file.write(f"{at}000Z stdout F {'x' * 150}\n" * 2000)
                ended.wait(0.02)

    loud = threading.Thread(target=shout)
    loud.start()
    try:
        time.sleep(3)
        node.say("vault", "sealed")
        node.wait_for_object("platform/vault/")
    finally:
        ended.set()
        loud.join()
        node.end(signal.SIGKILL)


def test_after_an_end_it_goes_on_where_it_was(node: Node) -> None:
    node.say("tenant-acme", *(f"first {number}" for number in range(100)))
    node.start()
    node.wait_for(lambda archived: len(archived.get("tenant_acme", [])) == 100)
    node.end()
    node.say("tenant-acme", *(f"second {number}" for number in range(100)))
    node.start()
    found = node.wait_for(lambda archived: len(archived.get("tenant_acme", [])) >= 200)
    assert len(set(found["tenant_acme"])) == len(found["tenant_acme"]) == 200


def test_loud_tenants_do_not_fill_its_memory(node: Node) -> None:
    """Each says 24 MB in lines of 60 kB; the container may have 512 MiB."""
    for tenant in ("acme", "bluebird", "corvus"):
        node.say(f"tenant-{tenant}", *(f"{number} {'x' * 60_000}" for number in range(400)))
    node.start()
    assert node.process
    most = 0
    deadline = time.monotonic() + 60
    while (sent := node.figure("otelcol_exporter_sent_log_records")) < 1200:
        assert time.monotonic() < deadline, sent
        status = Path(f"/proc/{node.process.pid}/status").read_text()
        most = max(most, int(status.partition("VmHWM:")[2].split()[0]))
        time.sleep(1)
    assert most < 512 * 1024
    assert {folder: len(said) for folder, said in node.archived().items()} == {
        f"tenant_{tenant}": 400 for tenant in ("acme", "bluebird", "corvus")
    }


def test_it_tells_what_it_has_put(node: Node) -> None:
    node.say("tenant-acme", "a line")
    node.start()
    node.wait_for(bool)
    assert node.figure("otelcol_receiver_accepted_log_records") == 1
    assert node.figure("otelcol_exporter_sent_log_records") == 1
    assert node.figure("otelcol_exporter_queue_size") == 0
    assert node.figure("otelcol_exporter_queue_capacity") > 10**6


def test_a_configuration_that_it_refuses_is_told_with_its_reason(tmp_path: Path) -> None:
    declared = configuration("http://127.0.0.1:1", object_storage.REGION, BUCKET)
    declared["processors"]["batch"]["timeout"] = "soon"
    path = tmp_path / "collector.yaml"
    path.write_text(yaml.safe_dump(declared))
    with pytest.raises(LocalError, match=r"(?s)refuses its configuration.*'timeout' time: invalid duration"):
        log_collector.judge(path, {"MY_POD_IP": "127.0.0.1"})
