"""The platform's servers, in the order in which they start.

A module here stands for one server, or a few that belong together, and offers (the protocol `Module`):

- `services()`: how to run each process, in start order; may be asked at any time, with nothing running.
- `prepare()`: what must be on disk before they start (database cluster, certificates, configuration).
- `bootstrap()`: what the program expects once they are ready (database, initialised Vault, CRDs); may raise
  NotReady or OSError to be called again.
- `environment()`: variables by which ordinary clients find the server; also with the server down.

`prepare` and `bootstrap` are repeatable, and mend what an interruption left half done.
"""

import itertools
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Protocol

from rich.console import Console

from local import credentials, ports, supervisor
from local.errors import refused
from local.paths import DATA
from local.servers import (
    certificates,
    controller_manager,
    exoscale,
    kubernetes,
    kubevirt,
    load_balancer,
    log_collector,
    monitoring,
    node_agent,
    object_storage,
    postgres,
    redis,
    vault,
)
from local.supervisor import NotReady, Service, Status


class Module(Protocol):
    """What each module in this package offers; see the package's docstring."""

    def services(self) -> list[Service]: ...  # noqa: D102
    def prepare(self) -> None: ...  # noqa: D102
    def bootstrap(self) -> None: ...  # noqa: D102
    def environment(self) -> dict[str, str]: ...  # noqa: D102


LAYERS: tuple[tuple[Module, ...], ...] = (
    (postgres, vault, object_storage, redis, kubernetes),
    (kubevirt, controller_manager, exoscale),
    (node_agent, load_balancer),
)
"""Modules of a layer start side by side: the first service of each, then the second, and so on. The next
layer starts when this one is bootstrapped."""

_BESIDE: tuple[Module, ...] = (monitoring, log_collector)
"""Servers that watch the platform once it is up; `up` does without them."""

_MODULES = tuple(itertools.chain.from_iterable(LAYERS))


def start_all(console: Console) -> None:
    """Bring every server up; those that run already are left alone. Raises LocalError.

    A full disk or a taken port is told before anything starts.
    """
    try:
        supervisor.check_disk()
        for service in _services(_MODULES):
            supervisor.check_ports(service)
        for layer in LAYERS:
            _start(layer, console)
    except OSError as error:
        raise refused(error, DATA, "the platform is not up") from error


def _start(layer: tuple[Module, ...], console: Console) -> None:
    for module in layer:
        module.prepare()
    for turn in itertools.zip_longest(*(module.services() for module in layer)):
        batch = [service for service in turn if service]
        for service in batch:
            supervisor.launch(service)
        for service in batch:
            supervisor.wait(service, console)
    for module in layer:
        what = f"{module.services()[0].name}: its first contents"
        supervisor.wait_until(module.bootstrap, timeout=30, what=what)


def start_monitoring(console: Console) -> None:
    """Bring up what looks at the platform, which has to be up. Raises LocalError."""
    try:
        for service in _services(_BESIDE):
            supervisor.check_ports(service)
        _start(_BESIDE, console)
    except OSError as error:
        raise refused(error, DATA, "monitoring is not up") from error


def stop_all(console: Console) -> None:
    """Stop every server, the last started first. Raises LocalError if one does not end."""
    for service in reversed(_services((*_MODULES, *_BESIDE))):
        if supervisor.is_running(service.name):
            with console.status(f"{service.name}: stopping"):
                supervisor.stop(service.name)
        if service.name == "node-agent":  # the servers that guests and Pods use are still there
            node_agent.end_workloads(console)


def statuses() -> dict[str, Status]:
    """Tell how each server is, by its name."""
    return {service.name: _status(service) for service in _services(_MODULES)}


def _status(service: Service) -> Status:
    status = supervisor.status(service)
    if service.name == "postgres" and status.ready:
        try:
            postgres.require_room()
            return replace(status, detail=postgres.large() or status.detail)
        except NotReady as full:
            return replace(status, ready=False, detail=str(full))
    return status


def environment() -> dict[str, str]:
    """Return the variables of all servers, for ordinary clients."""
    return {name: value for module in _MODULES for name, value in module.environment().items()}


def stack_settings() -> dict[str, Any]:
    """Return where the servers are, in the words of the stack's configuration; the rest is in its file."""
    return {
        "agent-platform:database": {
            "given": {"port": ports.port("postgres"), "connections": postgres.CONNECTIONS}
        },
        "agent-platform:redis": {"given": {"port": ports.port("redis")}},
        "agent-platform:vault": {"given": {"address": vault.url()}},
        "agent-platform:objectStorage": {"endpoint": object_storage.url()},
        "agent-platform:gateway": {
            "agentsAddress": f"https://127.0.0.1:{load_balancer.agents_port()}",
            "certificate": {"given": {"authority": certificates.ca_certificate()}},
        },
    }


def stack_secrets() -> dict[str, str]:
    """Return the secrets of the stack's configuration: how the program gets into what is given."""
    certificate, key = load_balancer.certificate()
    return {
        "agent-platform:databaseAdminPassword": credentials.secret("postgres"),
        "agent-platform:redisPassword": credentials.secret("redis"),
        "agent-platform:vaultToken": vault.root_token(),
        "agent-platform:gatewayCertificate": certificate,
        "agent-platform:gatewayKey": key,
    }


def _services(modules: Iterable[Module]) -> list[Service]:
    return [service for module in modules for service in module.services()]
