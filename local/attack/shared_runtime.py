"""The shared runtime, from within: whoever takes it over tries all that it finds there, at every door.

It enters as a process of the pod does, behind the same walls, with the same environment and files, and takes
from them every word that could be a credential. What is in the memory of the process that runs there is not
looked at: that is the requests in flight, which their tenants share by their tier.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import psycopg
from botocore.exceptions import ClientError

from local import credentials
from local.attack import gateway, kubernetes, object_storage, postgres, redis, vault
from local.attack.attempt import Attack, Refused, Target
from local.attack.tenants import Tenant
from local.node_agent import STATE
from local.node_agent.isolation import CODE
from local.node_agent.kube import Api
from local.node_agent.sandbox import Sandbox
from local.paths import ROOT
from local.servers import kubernetes_api

_PODS = "/api/v1/namespaces/runtime/pods"
_INTRUDER = Tenant(
    {"id": "shared-runtime", "schema": "", "prefix": "", "namespace": "runtime", "vm": "", "state": "active"}
)
"""Whoever has taken the runtime over; no tenant."""

_WORD = re.compile(r"[A-Za-z0-9._~+/=-]{16,4096}")
_MOST = 500
"""Words that are tried; a pod of the runtime's shows a few dozen."""
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_LOOK_AROUND = """
import json, os, pathlib, sys

found = {"the environment": "\\n".join(os.environ.values())}
for folder, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in sys.argv[1:]]
    for path in (pathlib.Path(folder, name) for name in files if os.path.join(folder, name) not in sys.argv):
        try:
            found[str(path)] = path.read_bytes()[:1 << 20].decode(errors="replace")
        except OSError:
            pass
for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
    try:
        found[str(path)] = path.read_text(errors="replace").replace("\\0", "\\n")
    except OSError:
        pass
print(json.dumps(found))
"""
_NO_KEY = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch")
_NOT_THE_PODS = (
    *("/bin", "/lib", "/lib64", "/sbin", "/usr", "/dev", "/proc", "/etc/ssl"),
    *("/etc/ca-certificates.conf", "/etc/hosts", "/etc/ld.so.cache", "/etc/localtime", "/etc/nsswitch.conf"),
)


@dataclass(frozen=True)
class Session:
    """The words found in the pod; in the control, the victim's own."""

    words: Sequence[str] = ()
    honest: bool = False

    def try_all(self, door: Callable[[str], object], rightful: Callable[[], str]) -> None:
        """Try every word at a door, or the one that opens it; Refused if none does."""
        refusal = f"none of the {len(self.words)} words in the pod opens it"
        for word in [rightful()] if self.honest else self.words:
            try:
                door(word)
            except Refused as refused:
                refusal = f"{refusal}: {refused}"
            else:
                return
        raise Refused(refusal[:500])


def _log_in(session: Session, _own: Tenant, victim: Tenant) -> None:
    """Enter Vault as the victim by every way in that takes a signed word."""

    def door(word: str) -> None:
        refusal = Refused()
        for method in ("kubernetes", "jwt"):
            body = {"role": victim.role, "jwt": word}
            try:
                vault.Session("").call("POST", f"auth/{method}/login", body)
            except Refused as refused:
                refusal = refused
            else:
                return
        raise refusal

    session.try_all(door, lambda: victim.credential)


def _use_as_token(session: Session, _own: Tenant, victim: Tenant) -> None:
    def door(word: str) -> None:
        vault.Session(word).call("GET", f"tenants/data/{victim.id}/object-storage")

    session.try_all(door, lambda: str(victim.vault.token))


def _enter_database(session: Session, _own: Tenant, victim: Tenant) -> None:
    def door(word: str) -> None:
        for user in (victim.login[0], victim.schema, "vault", "postgres"):
            try:
                postgres.connect(victim.database, user, word).close()
            except psycopg.OperationalError as error:
                refusal = str(error)
            else:
                return
        raise Refused(refusal)

    session.try_all(door, lambda: victim.login[1])


def _list_objects(session: Session, _own: Tenant, victim: Tenant) -> None:
    def door(word: str) -> None:
        entered = object_storage.client(boto, victim.key["access_key"], word)
        try:
            entered.list_objects_v2(Bucket=victim.key["bucket"], Prefix=victim.prefix)
        except ClientError as error:
            if error.response["Error"]["Code"] not in _NO_KEY:
                raise
            raise Refused(str(error)) from None

    boto = boto3.Session()

    session.try_all(door, lambda: victim.key["secret_key"])


def _see_activity(session: Session, _own: Tenant, victim: Tenant) -> None:
    def door(word: str) -> None:
        with ExitStack() as stack:
            users = ("default", "gateway", "idle-suspender", "agent-runtime")
            redis.entered_with([(user, word) for user in users], stack).call(
                "EXISTS", f"activity:{victim.id}"
            )

    session.try_all(door, lambda: credentials.secret("redis"))


def _tell_the_gateway(session: Session, _own: Tenant, victim: Tenant) -> None:
    def door(word: str) -> None:
        gateway.Session().tell("POST", "/v1/activity", word, {"signals": []})

    session.try_all(door, lambda: victim.account_token)


def _use_kubernetes(path: str) -> Callable[[Session, Tenant, Tenant], None]:
    def run(session: Session, _own: Tenant, _victim: Tenant) -> None:
        if session.honest:
            kubernetes_api.get(path)
        else:
            session.try_all(lambda word: kubernetes.bearing(word).call("GET", path), lambda: "")

    return run


def _attack(
    name: str, tried: str, run: Callable[[Session, Tenant, Tenant], None], **options: Any
) -> Attack[Session]:
    return Attack(name=name, tried=tried, run=run, by_owner=False, **options)


_ATTACKS = (
    _attack("log in to Vault as a tenant", "POST auth/kubernetes/login, auth/jwt/login", _log_in),
    _attack(
        "read a tenant's key with a token found", "GET tenants/data/VICTIM/object-storage", _use_as_token
    ),
    _attack("enter a tenant's database", "connect as VICTIM, its login, vault, postgres", _enter_database),
    _attack("list a tenant's objects", "list_objects_v2 VICTIM/", _list_objects),
    _attack("see whether a tenant is known", "AUTH, EXISTS activity:VICTIM", _see_activity),
    _attack(
        "speak for a tenant's agents",
        "POST /v1/activity",
        _tell_the_gateway,
        # Who never sleeps has no word in it.
        spares=lambda _attacker, victim: not victim.machine,
    ),
    *(
        _attack(f"read {what} in Kubernetes", f"GET {path}", _use_kubernetes(path), on_platform=True)
        for what, path in (("all secrets", "/api/v1/secrets"), ("the runtime's pods", _PODS))
    ),
)


@contextmanager
def entered(tenants: Sequence[Tenant]) -> Iterator[Target[Session]]:
    """Look around in the runtime's pod, and try what is there on every tenant."""
    yield Target(
        server="Shared runtime",
        sessions={_INTRUDER: Session(_words())},
        victims=tenants,
        administrator=Session(honest=True),
        attacks=_ATTACKS,
    )


def _words() -> list[str]:
    """Return every word that a process in the pod can read and that is no certificate's."""
    texts = [_CERTIFICATE.sub("", text) for text in _look_around().values()]
    words = {word: None for text in texts for word in _WORD.findall(text)}
    if len(words) > _MOST:
        raise RuntimeError(f"the pod shows {len(words)} words, more than the {_MOST} that are tried")
    return list(words)


def _look_around() -> dict[str, str]:
    """Read what can be read in a running pod, as one more process of its container."""
    pods = kubernetes_api.get(_PODS)["items"]
    pod = next(pod for pod in pods if pod["status"]["phase"] == "Running")
    (container,) = pod["spec"]["containers"]
    skipped = (*_NOT_THE_PODS, sys.base_prefix, CODE)
    intruder = {**container, "command": ["python", "-c", _LOOK_AROUND, *skipped], "args": []}
    folder = STATE / "pods" / pod["metadata"]["uid"]
    sandbox = Sandbox(Api(kubernetes_api.client()), pod, folder, kubernetes_api.address(), pod["status"])
    command = sandbox.command(intruder)
    assert command.isolation is not None  # noqa: S101 - a Pod's container always is
    with tempfile.TemporaryDirectory() as root:
        done = subprocess.run(
            command.isolation.command(Path(root), command.arguments),
            cwd=ROOT,
            env=dict(command.environment),
            capture_output=True,
            text=True,
            check=True,
        )
    found: dict[str, str] = json.loads(done.stdout)
    return found
