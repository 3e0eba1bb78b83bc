"""The work of tenants that nobody means: in a process of its own, a line of JSON for each piece of it.

What their agents do: get a login from Vault, write and read a row, put and get an object, and answer a
request that came through the gateway.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from threading import Lock, Thread
from typing import Any, TypedDict

import boto3

from local import engine, tokens
from local.attack.object_storage import client
from local.attack.postgres import connect
from local.attack.tenants import Tenant
from local.demo.visitor import Visitor
from local.soak import cast

KINDS = ("login", "rows", "object", "request")
_PAUSE = 0.5
_PATIENCE = 30.0
_ROWS_A_LOGIN = 6
"""As often is each login used: a tenant gets thirty a minute at most."""
_FILE = "soak.txt"


class Piece(TypedDict):
    """One piece of work: when it began, in seconds since the epoch, what it took, and how it failed if so."""

    tenant: str
    kind: str
    at: float
    seconds: float
    failure: str


class Worker:
    """The agents of one tenant."""

    def __init__(self, summary: Mapping[str, Any], tell: Callable[[Piece], None]) -> None:
        """Put the file there that is asked for later."""
        self._summary, self._tell = summary, tell
        self._tenant = Tenant(summary)
        self._login = ("", "")
        self._visitor = Visitor(self._tenant.id)
        key = self._tenant.key
        self._storage = client(boto3.Session(), key["access_key"], key["secret_key"])
        self._bucket, self._prefix = key["bucket"], self._tenant.prefix
        self._put(f"workspace/{_FILE}", _FILE.encode())

    def work(self) -> None:
        """Work for ever."""
        while True:
            former, self._tenant = self._tenant, Tenant(self._summary)
            # Not the tenant's own doing: what the cluster and an operator give it.
            _ = self._tenant.credential
            self._visitor = Visitor(self._tenant.id, tokens.mint(self._tenant.id, [self._tenant.id]))
            self._piece("login", self._log_in)
            former.leave()
            for _ in range(_ROWS_A_LOGIN):
                self._piece("rows", self._use_rows)
                self._piece("object", self._use_object)
                self._piece("request", self._request)
                time.sleep(_PAUSE)

    def _piece(self, kind: str, do: Callable[[], None]) -> None:
        at, began, failure = time.time(), time.perf_counter(), ""
        try:
            do()
        except Exception as error:  # noqa: BLE001 - however it fails, the work was not done
            failure = " ".join(f"{type(error).__name__}: {error}".split())
        seconds = time.perf_counter() - began
        self._tell(
            {"tenant": self._tenant.id, "kind": kind, "at": at, "seconds": seconds, "failure": failure}
        )

    def _log_in(self) -> None:
        issued = self._tenant.vault.secrets.database.generate_credentials(self._tenant.role)["data"]
        self._login = issued["username"], issued["password"]

    def _use_rows(self) -> None:
        with connect(self._tenant.database, *self._login) as connection:
            connection.execute("INSERT INTO execution_logs (status) VALUES ('succeeded')")
            connection.execute("SELECT count(*) FROM execution_logs").fetchone()

    def _use_object(self) -> None:
        self._put("kept", b"kept")
        self._storage.get_object(Bucket=self._bucket, Key=f"{self._prefix}kept")["Body"].read()

    def _put(self, name: str, body: bytes) -> None:
        self._storage.put_object(Bucket=self._bucket, Key=f"{self._prefix}{name}", Body=body)

    def _request(self) -> None:
        answer = self._visitor.call(f"/v1/files/{_FILE}", _PATIENCE)
        if answer is None or answer.status != HTTPStatus.OK or answer.text != _FILE:
            raise RuntimeError(f"answered {answer}")


def main() -> None:
    """Have the witnesses work until this process is ended."""
    lock = Lock()

    def tell(piece: Piece) -> None:
        with lock:
            sys.stdout.write(json.dumps(piece) + "\n")
            sys.stdout.flush()

    known = engine.tenants(engine.LOCAL_STACK)
    workers = [Worker(summary, tell) for summary in known if summary["id"] in cast.WITNESSES]
    for worker in workers:
        Thread(target=worker.work).start()


if __name__ == "__main__":
    main()
