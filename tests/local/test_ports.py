import socket
import subprocess
import sys

import pytest

from local import ports, store
from local.errors import LocalError
from local.paths import ROOT, RUN


def test_a_port_is_kept_and_no_other_server_gets_it() -> None:
    numbers = {name: ports.port(name) for name in ("a", "b", "c")}
    assert len(set(numbers.values())) == 3
    assert {name: ports.port(name) for name in numbers} == numbers
    assert all(20_000 <= number < 30_000 for number in numbers.values())
    assert store.read(RUN / "ports.json").items() >= numbers.items()


def test_a_kept_port_stays_when_another_program_takes_it() -> None:
    number = ports.port("kept")
    with socket.create_server(("127.0.0.1", number)):
        assert not ports.is_free(number)
        assert ports.port("kept") == number


def test_a_taken_port_is_not_given_out() -> None:
    number = ports.port("first")
    with store.edit(RUN / "ports.json") as kept:
        del kept["first"]
    with socket.create_server(("127.0.0.1", number)):
        assert ports.port("first") != number


def test_no_port_left_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda _: False)
    with pytest.raises(LocalError, match=r"no free loopback port from 20000 to 29999 for nowhere"):
        ports.port("nowhere")


def test_processes_agree() -> None:
    script = "from local import ports; print(ports.port('shared'))"
    command = [sys.executable, "-c", script]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) for _ in range(4)]
    assert len({process.communicate()[0] for process in processes}) == 1
