"""The tenants that this runtime serves, and their agents."""

import contextlib
import dataclasses
import importlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from email.message import Message
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from services.agent_runtime import identity, pace
from services.agent_runtime.context import TenantContext
from services.agent_runtime.credentials import Account, Assertion, Assertions, Credential
from services.agent_runtime.files import Files
from services.agent_runtime.gateway import Gateway
from services.agent_runtime.identity import Identity, NotReadyError, Server
from services.agent_runtime.pace import Pace
from services.agent_runtime.problems import BusyError, UnknownTenantError
from services.agent_runtime.settings import Settings
from services.agent_runtime.vault import Vault

if TYPE_CHECKING:
    from services.agent_runtime.runs import Runs

_PRELOAD_AFTER = 2.0
"""Seconds; whoever waited for the machine to wake is answered first."""
_MOST_REQUESTS = 64
"""Requests of one tenant that the shared runtime has in hand: each takes threads that all tenants share."""
_RUNS_AT_ONCE_SHARED = 2
_RUNS_AT_ONCE = 8
"""Runs of one tenant that are at work in a machine or pod of its own."""
_KEPT = 10.0
"""Seconds for which the shared runtime keeps logins that nobody uses: Vault does not issue one to PostgreSQL
for each request."""
_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")

InUse = Callable[[], contextlib.AbstractContextManager[Any]]


class Asked(NamedTuple):
    """The headers that the gateway adds to a request; it removes a client's own."""

    tenant: str | None
    assertion: str | None = None
    """The credential that Vault accepts for that tenant."""
    gateway: str | None = None
    """The address of the gateway's replica that has the request."""
    begins_run: bool = False

    @classmethod
    def read(cls, headers: Message, begins_run: bool) -> "Asked":
        """Take it from the headers of the request."""
        return cls(headers.get("X-Tenant"), headers.get("X-Assertion"), headers.get("X-Gateway"), begins_run)


class Tenant:
    """One tenant: its login, what it has, and its agents."""

    def __init__(
        self,
        known: Identity,
        settings: Settings,
        credential: Credential | None = None,
        in_use: InUse = contextlib.nullcontext,
        runs_at_once: int = _RUNS_AT_ONCE,
    ) -> None:
        """Do nothing yet; without a `credential`, its account's token is one. `in_use` keeps it open."""
        self.known = known
        self._began = time.time()
        self._in_use = in_use
        self._runs_at_once = runs_at_once
        self._lock = threading.Lock()
        self._runs: Runs | None = None
        self.vault = Vault(known, credential or Account(settings.account_token, known.tenant))
        self.context = TenantContext(known, self.vault, settings)
        # Only a machine sleeps, and only its token is one that the gateway takes.
        awake = known if settings.workspace else dataclasses.replace(known, gateway=None)
        self.gateway = Gateway(awake, settings.account_token)

    def ready(self) -> None:
        """NotReadyError unless the tenant's login and workspace are there."""
        self.vault.log_in()
        self.context.ready()

    def told(self) -> dict[str, Any]:
        """Who this is."""
        return {
            "tenant": self.known.tenant,
            "tier": self.known.tier,
            "runtime": "agent-platform",
            "servingFor": round(time.time() - self._began),
            "files": self.context.workspace.listed().names,
        }

    def files(self, folder: str) -> Files:
        """The files below a path of the API's."""
        if folder == "/v1/files/":
            return self.context.workspace
        storage = self.context.storage
        return storage.uploads if folder == "/v1/uploads/" else storage.artifacts

    @property
    def runs(self) -> "Runs":
        """The runs of its agents."""
        # Loaded only where it is needed: a machine that wakes has no time for it.
        from services.agent_runtime.agent import Worker
        from services.agent_runtime.runs import Runs

        with self._lock:
            if self._runs is None:
                worker = Worker(self.known, self.context)
                self._runs = Runs(worker, self.gateway, self._in_use, self._runs_at_once)
            return self._runs

    def close(self, seconds: float = 0.0) -> None:
        """End its runs, which have so long to be noted as cut off, and its logins."""
        if self._runs:
            self._runs.close(seconds)
        self.context.close()


class Tenants:
    """The only tenant of a machine or a pod of its own; in the shared runtime any, by the gateway's word."""

    def __init__(self, settings: Settings) -> None:
        """Know nobody yet."""
        self._settings = settings
        if not settings.workspace:
            # Loaded before the first request, which would wait for it.
            importlib.import_module("services.agent_runtime.prefix_files")
        self._lock = threading.Lock()
        self._own: Tenant | None = None
        self._sharing = _Sharing(settings)
        self._preload = threading.Timer(_PRELOAD_AFTER, _load_api)
        self._preload.daemon = True

    @property
    def shared(self) -> bool:
        """Whether this is the runtime that tenants share: it is told of none."""
        return self._settings.workspace is None and not self._settings.identity.exists()

    def ready(self) -> dict[str, Any]:
        """What is ready; NotReadyError if it is not."""
        if not self.shared:
            self.only().ready()
        with self._lock:
            if not self._preload.ident:
                self._preload.start()
        if self.shared:
            return {"status": "ok", "serves": "whom Vault lets it"}
        return {"status": "ok", "tenant": self.only().known.tenant}

    @contextlib.contextmanager
    def of(self, asked: Asked) -> Iterator[Tenant]:
        """The tenant that the gateway names, for one request.

        A runtime of one tenant's own takes no other's request.
        """
        if self.shared:
            with self._sharing.of(asked) as tenant:
                yield tenant
            return
        tenant = self.only()
        own = tenant.known.tenant
        if asked.tenant not in (None, own):
            raise UnknownTenantError(f"{asked.tenant}: this is the runtime of {own} and of nobody else.")
        yield tenant

    def only(self) -> Tenant:
        """The tenant whose own runtime this is; NotReadyError while it is unknown."""
        with self._lock:
            if self._own is None:
                known = identity.read(self._settings.identity)
                self._own = Tenant(known, self._settings)
            return self._own

    def close(self, seconds: float) -> None:
        """End all runs, which have so long to be noted as cut off, and all logins."""
        own = [self._own] if self._own else []
        closing = [
            threading.Thread(target=tenant.close, args=(seconds,)) for tenant in own + self._sharing.tenants()
        ]
        for each in closing:
            each.start()
        for each in closing:
            each.join()


@dataclasses.dataclass
class _Held:
    """A tenant whose requests or runs the shared runtime has in hand, or had until just now."""

    words: Assertions
    requests: int = 0
    users: int = 0
    """Requests and runs."""
    idle_since: float = 0.0
    tenant: Tenant = dataclasses.field(init=False)


class _Sharing:
    """The tenants of the shared runtime. It has the logins of those alone for whom it works, or just did."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}
        self._paces: dict[str, Pace] = {}
        """Of those that have begun runs of late, however long their logins are kept."""

    def tenants(self) -> list[Tenant]:
        with self._lock:
            return [held.tenant for held in self._held.values()]

    @contextlib.contextmanager
    def of(self, asked: Asked) -> Iterator[Tenant]:
        """The tenant that the gateway names, for one request: Vault takes the gateway's word, or does not."""
        name, word = self._read(asked)
        held = self._taken(name, asked.begins_run)
        try:
            held.words.add(word)
            # Vault decides whom this runtime serves, before anything is done for anybody.
            held.tenant.vault.admit(word)
            yield held.tenant
        finally:
            held.words.remove(word)
            with self._lock:
                held.requests -= 1
            self._left(held)

    def _read(self, asked: Asked) -> tuple[str, Assertion]:
        settings, name = self._settings, asked.tenant
        if not name or not _ID.fullmatch(name) or not asked.assertion or not asked.gateway:
            raise UnknownTenantError(
                "X-Tenant, X-Assertion and X-Gateway name no tenant's request: the shared runtime is reached "
                "by the gateway."
            )
        if settings.vault is None or settings.gateway is None or settings.database is None:
            raise NotReadyError(
                "VAULT_ADDR, GATEWAY_ADDR and DATABASE_URL: not all set, so no tenant can be logged in; the "
                "platform sets them."
            )
        replica = Server(
            address=asked.gateway,
            authority=settings.gateway.authority,
            name=urlsplit(settings.gateway.address).hostname,
        )
        return name, Assertion(asked.assertion, replica)

    def _taken(self, name: str, begins_run: bool) -> _Held:
        """Take hold of a tenant for one request; BusyError if it has too many, or begins runs too often.

        That is looked at before Vault is asked: refusing has to cost others less than what is refused.
        """
        with self._lock:
            if not self._held:
                threading.Thread(target=self._close_idle, daemon=True).start()
            held = self._held.get(name) or self._new(name)
            if held.requests == _MOST_REQUESTS:
                raise BusyError(
                    f"{name} has {_MOST_REQUESTS} requests in hand already, so this one is not begun; ask "
                    "again when one has ended."
                )
            if begins_run and (turn := self._pace(name).begin()):
                raise BusyError(
                    f"{name} begins more than {pace.A_MINUTE} runs a minute, so this one does not begin; ask "
                    f"again in {turn:.0f} s, or move to a tier with a runtime of its own.",
                    turn,
                )
            held.requests += 1
            held.users += 1
            return held

    def _pace(self, name: str) -> Pace:
        if name not in self._paces:
            self._paces = {known: pace for known, pace in self._paces.items() if not pace.is_rested()}
        return self._paces.setdefault(name, Pace())

    def _new(self, name: str) -> _Held:
        settings = self._settings
        assert settings.vault and settings.database  # noqa: S101 - `_read` refuses without
        self._held[name] = held = _Held(Assertions(name))

        @contextlib.contextmanager
        def in_use() -> Iterator[None]:
            with self._lock:
                held.users += 1
            try:
                yield
            finally:
                self._left(held)

        known = identity.shared(name, settings.vault, settings.database)
        held.tenant = Tenant(known, settings, held.words, in_use, _RUNS_AT_ONCE_SHARED)
        return held

    def _left(self, held: _Held) -> None:
        with self._lock:
            held.users -= 1
            held.idle_since = time.monotonic()

    def _close_idle(self) -> None:
        """Close whoever is idle, until nobody is left."""
        while True:
            time.sleep(min(1.0, _KEPT))
            with self._lock:
                before = time.monotonic() - _KEPT
                idle = [
                    name for name, held in self._held.items() if not held.users and held.idle_since < before
                ]
                closing = [self._held.pop(name).tenant for name in idle]
                over = not self._held
            for tenant in closing:
                tenant.close()
            if over:
                return


def _load_api() -> None:
    """Load what the first request to the API needs, which is most of what there is to load."""
    importlib.import_module("services.agent_runtime.api")
    importlib.import_module("services.agent_runtime.asgi")
    importlib.import_module("services.agent_runtime.runs")
