"""Somebody who uses a tenant's URL: with a browser, or with a program."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import urllib3

from local.servers import certificates, load_balancer

_HTML = "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"
_TITLE = re.compile(r"<title>(.*?)</title>", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back, and after how many seconds."""

    status: int
    headers: Mapping[str, str]
    text: str
    seconds: float

    @property
    def title(self) -> str:
        """The title of a page."""
        found = _TITLE.search(self.text)
        return found[1].strip() if found else "(no title)"


def connections(host: str, token: str = "", most: int = 1) -> urllib3.HTTPSConnectionPool:
    """Return at most so many kept connections to `https://HOST.DOMAIN`; without a token, a stranger's.

    The platform's authority is known, and each request has the headers `Host` and `Authorization`.
    """
    name = f"{host}.{load_balancer.DOMAIN}"
    # By address: not every resolver knows that names below `localhost` are loopback.
    return urllib3.HTTPSConnectionPool(
        "127.0.0.1",
        load_balancer.port(),
        maxsize=most,
        headers={
            "Host": f"{name}:{load_balancer.port()}",
            **({"Authorization": f"Bearer {token}"} if token else {}),
        },
        server_hostname=name,
        assert_hostname=name,
        ca_certs=str(certificates.CA_FILE),
        retries=False,
    )


class Visitor:
    """Reaches `https://HOST.DOMAIN`."""

    def __init__(self, host: str, token: str = "") -> None:
        """Without a token, a stranger."""
        self._pool = connections(host, token)

    def browse(self, path: str, seconds: float = 10) -> Answer | None:
        """Ask for a page as a browser does; None if nothing came in time."""
        return self._get(path, {"Accept": _HTML, "Sec-Fetch-Mode": "navigate"}, seconds)

    def call(self, path: str, seconds: float) -> Answer | None:
        """Ask as a program does, again when told to; None if there was no other answer in time."""
        began = time.monotonic()
        while (left := began + seconds - time.monotonic()) > 0:
            answer = self._get(path, {"Accept": "application/json"}, left)
            if answer is None or "Retry-After" not in answer.headers:
                return answer and replace(answer, seconds=time.monotonic() - began)
            time.sleep(float(answer.headers["Retry-After"]))
        return None

    def _get(self, path: str, headers: Mapping[str, str], seconds: float) -> Answer | None:
        began = time.monotonic()
        try:
            answer = self._pool.request(
                "GET", path, headers={**self._pool.headers, **headers}, timeout=seconds
            )
        except urllib3.exceptions.TimeoutError:
            return None
        return Answer(
            status=answer.status,
            headers=answer.headers,
            text=answer.data.decode(errors="replace"),
            seconds=time.monotonic() - began,
        )
