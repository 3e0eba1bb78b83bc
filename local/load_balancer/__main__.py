"""`python -m local.load_balancer PORT:POD_PORT …`: runs until SIGTERM. Reads KUBECONFIG."""

import asyncio
import functools
import logging
import resource
import signal
import sys
from collections.abc import Mapping

from kubernetes import config
from kubernetes.client import ApiClient

from local.load_balancer.backends import Backends
from local.load_balancer.relay import Relay
from local.node_agent.kube import Api

_CONNECTIONS = 4096
_OTHER_FILES = 64


def main() -> None:
    """Follow the gateway's pods and relay to them."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # each lost connection is reported once, by us
    client: ApiClient = config.new_client_from_config()  # type: ignore[no-untyped-call]
    backends = Backends(Api(client), namespace="gateway", name="gateway")
    backends.follow()
    listeners = [tuple(map(int, pair.split(":"))) for pair in sys.argv[1:]]
    limit = _connections() // len(listeners)
    relays = {port: Relay(functools.partial(backends.ready, of_pod), limit) for port, of_pod in listeners}
    asyncio.run(_serve(relays))


def _connections() -> int:
    """As many as the kernel lets us have, two descriptors each."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return _CONNECTIONS if most == resource.RLIM_INFINITY else min(_CONNECTIONS, (most - _OTHER_FILES) // 2)


async def _serve(relays: Mapping[int, Relay]) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    servers = [await relay.listen("127.0.0.1", port) for port, relay in relays.items()]
    await stopping.wait()
    for server in servers:
        server.close()


if __name__ == "__main__":
    main()
