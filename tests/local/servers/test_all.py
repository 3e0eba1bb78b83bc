import errno
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from rich.console import Console

from local import credentials, ports, servers, supervisor
from local.errors import LocalError
from local.supervisor import NotReady, Service

SERVER = (
    "import http.server, sys; http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), None).serve_forever()"
)


@dataclass
class Sample:
    """A module of servers that notes what is done with it."""

    names: tuple[str, ...]
    notes: list[str]
    trouble: list[Exception] = field(default_factory=list)

    def services(self) -> list[Service]:
        return [self._service(name) for name in self.names]

    def _service(self, name: str) -> Service:
        number = ports.port(name)

        def ready() -> None:
            socket.create_connection(("127.0.0.1", number), timeout=1).close()
            self.notes.append(f"{name} answers")

        command = [sys.executable, "-c", SERVER, str(number)]
        return Service(name=name, command=command, ports=[number], ready=ready, timeout=10)

    def prepare(self) -> None:
        self.notes.append(f"prepare {self.names[0]}")

    def bootstrap(self) -> None:
        if self.trouble:
            raise self.trouble.pop()
        self.notes.append(f"bootstrap {self.names[0]}")

    def environment(self) -> dict[str, str]:
        return {self.names[0].upper(): "here"}


@pytest.fixture
def samples(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Sample, Sample, Sample]]:
    notes: list[str] = []
    one, two, last = Sample(("one",), notes), Sample(("two", "two-more"), notes), Sample(("last",), notes)
    monkeypatch.setattr(servers, "LAYERS", ((one, two), (last,)))
    monkeypatch.setattr(servers, "_MODULES", (one, two, last))
    yield one, two, last
    for name in ("one", "two", "two-more", "last"):
        supervisor.stop(name)


def running() -> list[str]:
    return [name for name, status in servers.statuses().items() if status.ready]


def test_the_servers_are_those_of_the_design() -> None:
    assert list(servers.statuses()) == [
        *("postgres", "vault", "object-storage", "redis", "etcd", "kube-apiserver"),
        *("virt-api", "virt-controller", "kube-controller-manager", "exoscale", "node-agent"),
        "load-balancer",
    ]


def test_clients_find_every_server_by_the_environment() -> None:
    expected = """
        PGHOST PGPORT PGUSER PGPASSWORD PGDATABASE VAULT_ADDR AWS_ENDPOINT_URL AWS_ACCESS_KEY_ID
        AWS_SECRET_ACCESS_KEY AWS_REGION REDIS_URL KUBECONFIG EXOSCALE_API_ENDPOINT EXOSCALE_API_KEY
        EXOSCALE_API_SECRET
    """
    assert servers.environment().keys() >= set(expected.split())


def test_layers_start_in_order_and_stop_in_reverse(
    samples: tuple[Sample, Sample, Sample], console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers.start_all(console)
    notes = samples[0].notes
    assert notes == [
        *("prepare one", "prepare two", "one answers", "two answers", "two-more answers"),
        *("bootstrap one", "bootstrap two", "prepare last", "last answers", "bootstrap last"),
    ]
    assert running() == ["one", "two", "two-more", "last"]
    stopped: list[str] = []
    stop = supervisor.stop

    def noted(name: str) -> None:
        stopped.append(name)
        stop(name)

    monkeypatch.setattr(supervisor, "stop", noted)
    servers.stop_all(console)
    assert stopped == ["last", "two-more", "two", "one"]
    assert running() == []


def test_a_second_start_leaves_them_alone_and_mends_the_rest(
    samples: tuple[Sample, Sample, Sample], console: Console
) -> None:
    servers.start_all(console)
    before = servers.statuses()
    supervisor.stop("two")
    servers.start_all(console)
    after = servers.statuses()
    assert after["two"].ready
    assert {name for name in after if after[name].pid != before[name].pid} == {"two"}


def test_a_taken_port_is_told_before_anything_starts(
    samples: tuple[Sample, Sample, Sample], console: Console
) -> None:
    with (
        socket.create_server(("127.0.0.1", ports.port("last"))),
        pytest.raises(LocalError, match="last: port"),
    ):
        servers.start_all(console)
    assert samples[0].notes == []
    assert running() == []


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EACCES, "give it back to your user"),
        (errno.EROFS, "AGENT_PLATFORM_DATA"),
    ],
)
def test_trouble_with_the_disk_is_told(
    samples: tuple[Sample, Sample, Sample],
    console: Console,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    remedy: str,
) -> None:
    def prepare() -> None:
        raise OSError(number, "trouble", "/data/file")

    monkeypatch.setattr(samples[2], "prepare", prepare)
    with pytest.raises(LocalError, match=rf"/data/file: trouble, so the platform is not up; .*{remedy}"):
        servers.start_all(console)


def test_a_server_that_is_not_quite_there_is_bootstrapped_again(
    samples: tuple[Sample, Sample, Sample], console: Console
) -> None:
    samples[0].trouble = [NotReady("electing"), ConnectionRefusedError("refused")]
    servers.start_all(console)
    assert "bootstrap last" in samples[0].notes


def test_no_server_is_started_with_a_secret_on_its_command_line() -> None:
    names = ("postgres", "redis", "exoscale-api-key", "exoscale-api-secret", "object-storage-internal")
    secrets = [credentials.secret(name) for name in (*names, "vault-seal", "pulumi-passphrase")]

    commands = [" ".join(service.command) for service in servers._services(servers._MODULES)]

    assert len(commands) > 10
    assert not [line for line in commands if any(secret in line for secret in secrets)]
