"""Ways into the servers, for the dynamic resources that look after a tenant; each is opened when needed.

What they are told stands in the state; what only the environment has does not: `EXOSCALE_API_KEY` and
`EXOSCALE_API_SECRET`, and where the platform manages the service, `VAULT_TOKEN`, `VAULT_CACERT` and
`PGSSLROOTCERT` (docs/decisions/0010). No kubeconfig is kept either: one of an hour is drawn from Exoscale.
"""

import base64
import json
import os
import time
import urllib.parse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import urllib3

from infra.cluster.object_storage import exoscale_key

if TYPE_CHECKING:
    import psycopg
    import redis
    from exoscale.api.v2 import Client  # type: ignore[import-untyped]
    from kubernetes.client import ApiClient

Where = Mapping[str, Any]

_HOUR = 60 * 60


class VaultClient:
    """Vault's HTTP API, entered as the provider enters it: with its token, or with the environment's."""

    def __init__(self, where: Where) -> None:
        """`where` has `address`, and `token` and `serverName` where there are any."""
        token = where.get("token") or os.environ.get("VAULT_TOKEN")
        if not token:
            raise RuntimeError(
                "VAULT_TOKEN: not set, so Vault cannot be entered; export the operator's token"
            )
        name = where.get("serverName") or None
        self._address = str(where["address"]).rstrip("/")
        self._headers = {"X-Vault-Token": token, "X-Vault-Request": "true"}
        self._http = urllib3.PoolManager(
            ca_certs=os.environ.get("VAULT_CACERT"),
            **({"server_hostname": name, "assert_hostname": name} if name else {}),
            timeout=urllib3.Timeout(connect=10, read=120),
            # No path of ours leads elsewhere; one that does is odd, and would take the token along.
            retries=urllib3.Retry(3, redirect=False, allowed_methods=None, backoff_factor=0.5),
        )

    def call(self, method: str, path: str, body: Any = None, query: str = "") -> dict[str, Any]:
        """The answer, empty if there is none or nothing there; `path` is as Vault lists it."""
        # A tenant names its secrets as it likes, with ? and %, too.
        url = f"{self._address}/v1/{urllib.parse.quote(path)}{query}"
        sent = None if body is None else json.dumps(body)
        try:
            answer = self._http.request(method, url, body=sent, headers=self._headers)
        except urllib3.exceptions.HTTPError as error:
            raise RuntimeError(f"Vault cannot be reached under {self._address}: {error}") from None
        content = json.loads(answer.data) if answer.data else {}
        # Vault finds nothing, with nothing to say of it; a mount that is missing it complains about.
        if answer.status == 404 and not content.get("errors"):
            return {}
        if answer.status >= 300:
            raise RuntimeError(f"Vault refused {method} {path} ({answer.status}): {answer.data.decode()}")
        return dict(content)

    def keys(self, path: str) -> list[str]:
        """What is listed below `path`."""
        return list(self.call("LIST", path).get("data", {}).get("keys", []))

    def secrets(self, mount: str, folder: str) -> list[str]:
        """The path of every secret below `folder`, which ends in a slash; deleted versions count."""
        found: list[str] = []
        folders = [folder]
        while folders:
            inside = folders.pop()
            for key in self.keys(f"{mount}/metadata/{inside}"):
                (folders if key.endswith("/") else found).append(inside + key)
        return sorted(found)

    def entities(self, name: str) -> list[str]:
        """The ids of the identities that logins made to the role `name`, or from the namespace `name`."""
        return [
            entity
            for entity in self.keys("identity/entity/id")
            if any(
                name in (metadata.get("service_account_namespace"), metadata.get("role"))
                for metadata in self._aliases(entity)
            )
        ]

    def _aliases(self, entity: str) -> list[dict[str, str]]:
        """The known facts about each way in that the identity has."""
        found = self.call("GET", f"identity/entity/id/{entity}").get("data", {}).get("aliases") or []
        return [alias.get("metadata") or {} for alias in found]


def postgres(where: Where) -> "psycopg.Connection[Any]":
    """PostgreSQL as its administrator, each statement for itself."""
    from infra.platform.administrator import connect

    return connect(where)


def exoscale(zone: str) -> "Client":
    """Exoscale's API, in `zone` unless the environment names another endpoint, as for the provider."""
    from exoscale.api.v2 import Client

    key, secret = exoscale_key("Exoscale cannot be asked")
    endpoint = os.environ.get("EXOSCALE_API_ENDPOINT")
    place = {"url": endpoint} if endpoint else {"zone": zone}
    return Client(key, secret, **place)


def kubernetes(where: Where) -> "ApiClient":
    """The Kubernetes API of the cluster (`cluster`, an SKS id, in `zone`), as a member of `group`."""
    import yaml
    from kubernetes import config

    answer = exoscale(where["zone"]).generate_sks_cluster_kubeconfig(
        id=where["cluster"], user="registrar", groups=[where["group"]], ttl=_HOUR
    )
    document = yaml.safe_load(base64.b64decode(answer["kubeconfig"]))
    connect: Any = config.new_client_from_config_dict
    client: ApiClient = connect(document)
    return client


def kubernetes_for_hours(where: Where) -> "Callable[[], ApiClient]":
    """A way into the Kubernetes API for longer than a kubeconfig is good: each call gives one that is."""
    known: list[tuple[float, ApiClient]] = []

    def client() -> "ApiClient":
        if not known or time.monotonic() - known[0][0] > _HOUR / 2:
            known[:] = [(time.monotonic(), kubernetes(where))]
        return known[0][1]

    return client


def activity(where: Where) -> "redis.Redis":
    """The activity store."""
    import redis

    authority = where.get("authority")
    verified: dict[str, Any] = {
        "ssl": True,
        "ssl_ca_data": authority,
        # The platform's own authority has certified nobody else, and no certificate names a load balancer.
        "ssl_check_hostname": authority is None,
    }
    return redis.Redis(
        host=where["host"],
        port=int(where["port"]),
        password=where["password"],
        socket_timeout=15,
        decode_responses=True,
        **(verified if where["tls"] else {}),
    )


def failures() -> tuple[type[Exception], ...]:
    """What goes wrong with a server, as the ways in tell it."""
    import psycopg
    import redis
    from botocore.exceptions import BotoCoreError, ClientError
    from exoscale.api.exceptions import ExoscaleAPIException  # type: ignore[import-untyped]
    from kubernetes.client.exceptions import ApiException
    from requests.exceptions import RequestException

    return (
        *(psycopg.Error, redis.RedisError, BotoCoreError, ClientError, ExoscaleAPIException),
        *(ApiException, RequestException, urllib3.exceptions.HTTPError, RuntimeError),
    )
