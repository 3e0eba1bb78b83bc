"""The part of a Kubernetes API that the gateway sees; what a start leads to is the test's."""

import asyncio
import itertools
import json
import ssl
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from services.gateway.routes import Route
from services.kube import Access, Api
from tests.services.gateway.test_routes import declared

Object = dict[str, Any]

MACHINES = "/apis/kubevirt.io/v1/virtualmachines"
INSTANCES = "/apis/kubevirt.io/v1/virtualmachineinstances"
CONFIG_MAPS = "/api/v1/namespaces/gateway/configmaps"
PORT = 8080


def route(tenant: str, **fields: Any) -> Route:
    """Return the route of a tenant with a machine."""
    values: dict[str, Any] = {
        "tenant": tenant,
        "tier": "enterprise",
        "state": "active",
        "served_by": "machine",
        "namespace": f"tenant-{tenant}",
        "idle_seconds": 900,
        "keys": {},
    }
    return Route(**values | fields)


class Cluster:
    """Objects in memory, told to whoever watches."""

    def __init__(self) -> None:
        self.starts: Counter[str] = Counter()
        self.started: Callable[[str], Awaitable[None]] = self.run
        self.events: list[Object] = []
        self.tokens: dict[str, str] = {}
        self.reviews = 0
        self.ready = 200
        self.answers_after = 0.0
        """Seconds that a guest takes to say whether it is ready."""
        self.asked_at_once = 0
        """How many questions a guest had before it at most."""
        self._asked = 0
        self.away = False
        self.silent = False
        """True if watches report nothing of what happens."""
        self._objects: dict[str, dict[str, Object]] = defaultdict(dict)
        self._version = 1
        self._watches: dict[asyncio.Queue[Object | bytes | None], str] = {}
        self._guests: dict[str, web.AppRunner] = {}
        self._numbers = itertools.count(1)

    def put(self, path: str, name: str, item: Object) -> None:
        """Have an object, or another state of it."""
        kind = "MODIFIED" if name in self._objects[path] else "ADDED"
        self._version += 1
        item.setdefault("metadata", {}).update(
            name=name,
            namespace="gateway" if path == CONFIG_MAPS else name,
            uid=item["metadata"].get("uid", name),
            resourceVersion=str(self._version),
        )
        self._objects[path][name] = item
        self._tell(path, kind, item)

    def delete(self, path: str, name: str) -> None:
        """Have an object no more."""
        if item := self._objects[path].pop(name, None):
            self._version += 1
            item["metadata"]["resourceVersion"] = str(self._version)
            self._tell(path, "DELETED", item)

    @property
    def watches(self) -> int:
        """How many watches there are."""
        return len(self._watches)

    async def say(self, line: bytes) -> None:
        """Send a line to all watches, and return once they have been asked for anew."""
        before = set(self._watches)
        for watch in before:
            watch.put_nowait(line)
            watch.put_nowait(None)
        while before & set(self._watches) or len(self._watches) < len(before):
            await asyncio.sleep(0.01)

    def break_watches(self, *, gone: bool = False) -> None:
        """End all watches, as if what they ask for were too old if `gone`."""
        for watch in self._watches:
            error = {"type": "ERROR", "object": {"code": 410, "message": "too old resource version"}}
            if gone:
                watch.put_nowait(error)
            watch.put_nowait(None)

    def declare(self, tenant: str, **fields: Any) -> None:
        """Have a tenant's route."""
        self.put(CONFIG_MAPS, f"route-{tenant}", declared(tenant, **fields))

    def machine(self, name: str, status: str, *requests: str, strategy: str = "RerunOnFailure") -> None:
        """Have a machine with that printable status."""
        asked = [{"action": request} for request in requests]
        found = {"printableStatus": status, "stateChangeRequests": asked}
        self.put(MACHINES, name, {"spec": {"runStrategy": strategy}, "status": found})

    def instance(self, name: str, phase: str, uid: str = "one", message: str = "", address: str = "") -> None:
        """Have an instance of a machine."""
        said = [{"type": "Synchronized", "status": "False", "message": message}] if message else []
        status = {"phase": phase, "interfaces": [{"ipAddress": address}], "conditions": said}
        self.put(INSTANCES, name, {"metadata": {"uid": uid}, "status": status})

    async def run(self, name: str) -> None:
        """Have a machine run, with a guest that answers."""
        number = next(self._numbers)
        address = f"127.77.0.{number}"
        application = web.Application()
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/stream", _stream)
        application.router.add_get("/", _hello)
        runner = self._guests[name] = web.AppRunner(application, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, address, PORT).start()
        self.machine(name, "Starting")
        self.instance(name, "Scheduled", f"run-{number}")
        self.instance(name, "Running", f"run-{number}", address=address)
        self.machine(name, "Running")

    async def stop(self, name: str) -> None:
        """Stop a machine."""
        self.machine(name, "Running", "Stop")
        await self._guests.pop(name).cleanup()
        self.delete(INSTANCES, name)
        self.machine(name, "Stopped")

    async def close(self) -> None:
        """End all guests."""
        for runner in self._guests.values():
            await runner.cleanup()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer as the API server."""
        if self.away:
            raise web.HTTPServiceUnavailable
        if request.path.endswith("/start"):
            return await self._start(request.path.split("/")[-2])
        if request.path.endswith("/events"):
            self.events.append(await request.json())
            return web.json_response({})
        if request.path.endswith("/tokenreviews"):
            return await self._review(request)
        if request.path.startswith(f"{CONFIG_MAPS}/"):
            found = self._objects[CONFIG_MAPS].get(request.path.rpartition("/")[2])
            return web.json_response(found or {"message": "not found"}, status=200 if found else 404)
        path, name = request.path, request.query.get("fieldSelector", "").removeprefix("metadata.name=")
        if name:
            path = MACHINES
        if request.query.get("watch"):
            return await self._watch(request, path)
        items = [item for key, item in self._objects[path].items() if name in ("", key)]
        return web.json_response({"items": items, "metadata": {"resourceVersion": str(self._version)}})

    async def _start(self, name: str) -> web.Response:
        if self._objects[MACHINES][name]["status"]["printableStatus"] != "Stopped":
            return web.json_response({"message": "VM is already running"}, status=409)
        self.starts[name] += 1
        self.machine(name, "Stopped", "Start")
        await self.started(name)
        return web.Response(status=202)

    async def _review(self, request: web.Request) -> web.Response:
        self.reviews += 1
        user = self.tokens.get((await request.json())["spec"]["token"])
        status = {"authenticated": True, "user": {"username": user}} if user else {}
        return web.json_response({"status": status})

    async def _watch(self, request: web.Request, path: str) -> web.StreamResponse:
        response = web.StreamResponse()
        queue: asyncio.Queue[Object | bytes | None] = asyncio.Queue()
        self._watches[queue] = path
        for item in self._objects[path].values():
            if int(item["metadata"]["resourceVersion"]) > int(request.query["resourceVersion"]):
                queue.put_nowait({"type": "MODIFIED", "object": item})
        try:
            await response.prepare(request)
            while (event := await queue.get()) is not None:
                await response.write(
                    event if isinstance(event, bytes) else json.dumps(event).encode() + b"\n"
                )
        finally:
            del self._watches[queue]
        return response

    async def _readyz(self, _: web.Request) -> web.Response:
        self._asked += 1
        self.asked_at_once = max(self.asked_at_once, self._asked)
        try:
            await asyncio.sleep(self.answers_after)
            return web.Response(status=self.ready)
        finally:
            self._asked -= 1

    def _tell(self, path: str, kind: str, item: Object) -> None:
        if self.silent:
            return
        for watch, watched in self._watches.items():
            if watched == path:
                watch.put_nowait({"type": kind, "object": json.loads(json.dumps(item))})


@asynccontextmanager
async def serve() -> AsyncIterator[tuple[Cluster, Api]]:
    """Run one on loopback, and a client of it."""
    cluster = Cluster()
    server = web.AppRunner(_application(cluster), shutdown_timeout=0.1)
    await server.setup()
    site = web.TCPSite(server, "127.0.0.1", 0)
    await site.start()
    api = Api(Access(server=f"http://127.0.0.1:{server.addresses[0][1]}", tls=ssl.create_default_context()))
    try:
        yield cluster, api
    finally:
        await api.close()
        await cluster.close()
        await server.cleanup()


async def _hello(_: web.Request) -> web.Response:
    return web.Response(text="hello")


async def _stream(request: web.Request) -> web.StreamResponse:
    """Begin to answer, and never end."""
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"begins")
    await asyncio.Event().wait()
    return response


def _application(cluster: Cluster) -> web.Application:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", cluster.answer)
    return application
