"""The connection to Redis, as the environment of a container describes it."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import RedisError

UNREACHABLE = (RedisError, OSError)
"""What every call to the store raises when Redis is away, refuses, or says what makes no sense."""

_SECONDS = 3
_CONNECTIONS = 32
"""Who asks while all are in use waits for one: tenants that come all at once do not find Redis away."""


class _File(CredentialProvider):
    """Read for each new connection, so that a password may change under a running process."""

    def __init__(self, user: str, path: Path) -> None:
        self._user = user
        self._path = path

    def get_credentials(self) -> tuple[str, str]:
        return self._user, self._path.read_text(encoding="utf-8").strip()

    async def get_credentials_async(self) -> tuple[str, str]:
        return self.get_credentials()


def connect() -> Redis:
    """Return a client for `REDIS_URL` (`rediss://USER@HOST:PORT`), the password from `REDIS_PASSWORD_FILE`.

    `REDIS_CA_FILE` names the authority of the server's certificate, if it is none that everybody trusts.
    Nothing is connected yet. Raises `KeyError` without the first two.
    """
    url = urlsplit(os.environ["REDIS_URL"])
    secured = {"connection_class": SSLConnection, "ssl_ca_certs": os.environ.get("REDIS_CA_FILE")}
    pool = BlockingConnectionPool(
        max_connections=_CONNECTIONS,
        timeout=_SECONDS,
        **(secured if url.scheme == "rediss" else {"connection_class": Connection}),
        host=url.hostname or "",
        port=url.port or 6379,
        credential_provider=_File(url.username or "default", Path(os.environ["REDIS_PASSWORD_FILE"])),
        decode_responses=True,
        # One key with bytes that are no text must not make the answer about all keys unreadable.
        encoding_errors="replace",
        socket_timeout=_SECONDS,
        socket_connect_timeout=_SECONDS,
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 3),
    )
    return Redis.from_pool(pool)
