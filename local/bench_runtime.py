"""The cost to other starters of one at its limits: the time to the first word of their agents' answers.

A platform of its own, in a checkout that is thrown away, has twenty starters. Nineteen ask their agents every
few seconds; the twentieth asks without a pause, from as many clients as the runtime takes requests of it.
Both sides of the ratio are measured in turn, in the same run.
"""

import json
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from typing import TypedDict

import yaml
from rich.console import Console

from local import consoles, scratch, tokens
from local.demo.visitor import connections
from local.errors import LocalError

_STARTERS = [f"starter{number:02}" for number in range(1, 21)]
_ROUNDS = 4
_SECONDS = 30.0
"""Of each side in each round."""
_EVERY = 4.0
"""Seconds from one question of a tenant's to its next."""
_CLIENTS = 64


class Measured(TypedDict):
    """Each round's 95th percentile in seconds, without and beside the other; what that one was answered."""

    alone: list[float]
    beside: list[float]
    answered: int
    refused: int


def measure(console: Console) -> Measured:
    """Carry it out; raises LocalError if it could not be."""
    console.print(f"runtime: a platform with {len(_STARTERS)} starters comes up first, some three minutes")
    environment = scratch.environment("reported")
    with scratch.checkout() as root:
        entries = [
            {"id": name, "name": name, "tier": "starter", "owner": f"ops@{name}.example"}
            for name in _STARTERS
        ]
        (root / "tenants.yaml").write_text(yaml.safe_dump({"tenants": entries}), encoding="utf-8")

        run = partial(scratch.run_module, root, environment)
        try:
            done = run("local", "up")
            if done.returncode == 0:
                done = run(__name__)
        finally:
            run("local", "down", "--delete-data")
    if done.returncode:
        raise LocalError(f"runtime: it could not be carried out:\n{done.stdout}")
    found: Measured = json.loads(done.stdout)
    return found


class _Client:
    """Asks one tenant's agent."""

    def __init__(self, tenant: str) -> None:
        self.again_after = 0.0
        """Seconds, as whoever was refused last was told."""
        self._pool = connections(tenant, tokens.mint(tenant, [tenant]), _CLIENTS)
        self._headers = {**self._pool.headers, "Content-Type": "application/json"}

    def first_word(self) -> float | None:
        """Ask, and read all of the answer; seconds to its first word, None if it was refused."""
        began = time.monotonic()
        answer = self._pool.request(
            "POST",
            "/v1/agent",
            body=b'{"prompt": "hello"}',
            headers=self._headers,
            timeout=60,
            preload_content=False,
        )
        try:
            if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
                answer.read()
                self.again_after = float(answer.headers["Retry-After"])
                return None
            first, content = None, b""
            for part in answer.stream():
                content += part
                if first is None and b"event: text" in content:
                    first = time.monotonic() - began
        finally:
            answer.release_conn()
        if first is None or b"event: done" not in content:
            raise LocalError(f"runtime: an agent answered {answer.status} {content!r}")
        return first


def _measure(console: Console) -> Measured:
    others = [_Client(name) for name in _STARTERS[:-1]]
    greedy = _Client(_STARTERS[-1])
    found: Measured = {"alone": [], "beside": [], "answered": 0, "refused": 0}
    _percentile(others)  # a warm-up
    for turn in range(_ROUNDS):
        found["alone"].append(_percentile(others))
        with _at_its_limits(greedy, found):
            found["beside"].append(_percentile(others))
        console.print(
            f"round {turn + 1}: p95 alone {1000 * found['alone'][-1]:.0f} ms, "
            f"beside one at its limits {1000 * found['beside'][-1]:.0f} ms"
        )
    return found


def _percentile(clients: list[_Client]) -> float:
    """Return the 95th percentile of the time to the first word, in seconds."""
    until = time.monotonic() + _SECONDS

    def ask(number: int) -> list[float]:
        taken = []
        time.sleep(number * _EVERY / len(clients))
        while (began := time.monotonic()) < until:
            first = clients[number].first_word()
            if first is None:
                raise LocalError("runtime: a tenant that asks one thing at a time was refused")
            taken.append(first)
            time.sleep(max(0.0, began + _EVERY - time.monotonic()))
        return taken

    with ThreadPoolExecutor(len(clients)) as pool:
        taken = list(pool.map(ask, range(len(clients))))
    return statistics.quantiles([seconds for each in taken for seconds in each], n=20)[18]


@contextmanager
def _at_its_limits(client: _Client, found: Measured) -> Iterator[None]:
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            if client.first_word() is None:
                found["refused"] += 1
                over.wait(client.again_after)
            else:
                found["answered"] += 1

    asking = [threading.Thread(target=ask) for _ in range(_CLIENTS)]
    for each in asking:
        each.start()
    # What it may do in a row is done.
    time.sleep(10)
    try:
        yield
    finally:
        over.set()
        for each in asking:
            each.join()


if __name__ == "__main__":
    try:
        sys.stdout.write(json.dumps(_measure(consoles.console(stderr=True))))
    except LocalError as error:
        sys.exit(str(error))
