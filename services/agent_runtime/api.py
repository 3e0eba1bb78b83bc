"""The tenant's API for agents, their memory, sessions and runs, and its description (OpenAPI 3.1)."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Any, Literal

import psycopg
from fastapi import APIRouter, Depends, FastAPI, Header, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import Field
from starlette.exceptions import HTTPException

from services.agent_runtime import problems
from services.agent_runtime.api_files import PATHS, PROBLEM
from services.agent_runtime.files import LONGEST_ADDRESS
from services.agent_runtime.tables.agents import Agent, Agents, Entry, Settings
from services.agent_runtime.tables.memory import Memory, Remembered, Remembering
from services.agent_runtime.tables.runs import Event, Order, Run
from services.agent_runtime.tables.sessions import Message, Opening, Session, Sessions
from services.agent_runtime.tables.shapes import Key, Name, Number, Page, Shape
from services.agent_runtime.tenants import Tenant


class Problem(Shape):
    """The refusal of a request, with its reason (RFC 9457)."""

    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] = Field(default=[], description="What is wrong with the request, and where.")


class Wanted(Shape):
    """An address for somebody who has no token: of an upload or an artifact."""

    folder: Literal["uploads", "artifacts"]
    name: Key
    seconds: Annotated[int, Field(ge=1, le=LONGEST_ADDRESS)] = 3600


class Address(Shape):
    """An address that everybody who has it can read, until it ends."""

    address: str
    expires_at: datetime


_TOLD: dict[int | str, dict[str, Any]] = dict.fromkeys((422, "default"), PROBLEM)
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Numbered: `text`, `tool`, `output`, and at last `done`, `error` or `cancelled`.",
        "content": {
            "text/event-stream": {
                "schema": {
                    "type": "object",
                    "required": ["id", "event", "data"],
                    "properties": {
                        "id": {"type": "string", "pattern": "^[0-9]+$"},
                        "event": {"enum": ["text", "tool", "output", "done", "error", "cancelled"]},
                        "data": {"type": "string", "contentMediaType": "application/json"},
                    },
                }
            }
        },
    }
}


async def _tenant(request: Request) -> Tenant:
    tenant: Tenant = request.state.tenant
    return tenant


async def _agents(tenant: Annotated[Tenant, Depends(_tenant)]) -> Agents:
    return Agents(tenant.context.database)


async def _sessions(tenant: Annotated[Tenant, Depends(_tenant)]) -> Sessions:
    return Sessions(tenant.context.database)


async def _memory(tenant: Annotated[Tenant, Depends(_tenant)], name: Annotated[Name, Path()]) -> Memory:
    return Memory(tenant.context.database, name)


TheTenant = Annotated[Tenant, Depends(_tenant)]
TheAgents = Annotated[Agents, Depends(_agents)]
TheSessions = Annotated[Sessions, Depends(_sessions)]
TheMemory = Annotated[Memory, Depends(_memory)]
AgentName = Annotated[Name, Path()]
MemoryKey = Annotated[Key, Path()]
Id = Annotated[Number, Path()]
Limit = Annotated[int, Query(ge=1, le=200)]
After = Annotated[
    str, Query(max_length=200, pattern=r"^[^\x00]*$", description="The `next` of the page before.")
]
Before = Annotated[Number | None, Query(alias="after", description="The `next` of the page before.")]
LastEvent = Annotated[
    Annotated[int, Field(ge=0, le=2**31 - 1)],
    Header(alias="Last-Event-ID", description="The number of the last event that was read."),
]

router = APIRouter(prefix="/v1", responses=_TOLD)


# They wait for the tenant's servers: each request has a thread and an event loop for itself.


@router.get("/agents", tags=["agents"])
async def list_agents(agents: TheAgents, after: After = "", limit: Limit = 50) -> Page[Entry]:
    """List the agents, by name."""
    return agents.listed(after, limit)


@router.get("/agents/{name}", tags=["agents"])
async def read_agent(agents: TheAgents, name: AgentName) -> Agent:
    """Read an agent."""
    return agents.get(name)


@router.put("/agents/{name}", tags=["agents"], responses={201: {"model": Agent, "description": "It is new."}})
async def write_agent(agents: TheAgents, name: AgentName, settings: Settings, response: Response) -> Agent:
    """Make an agent, or change it: what is not given is as of a new one."""
    agent, is_new = agents.put(name, settings)
    if is_new:
        response.status_code = HTTPStatus.CREATED
    return agent


@router.delete("/agents/{name}", tags=["agents"], status_code=HTTPStatus.NO_CONTENT)
async def delete_agent(agents: TheAgents, name: AgentName) -> None:
    """Delete an agent with its memory and its sessions; its runs stay. `default` cannot be deleted."""
    agents.delete(name)


@router.get("/agents/{name}/memory", tags=["memory"])
async def list_memory(memory: TheMemory, after: After = "", limit: Limit = 50) -> Page[Remembered]:
    """List what an agent remembers, by key."""
    return memory.listed(after, limit)


@router.get("/agents/{name}/memory/{key:path}", tags=["memory"])
async def read_memory(memory: TheMemory, key: MemoryKey) -> Remembered:
    """Read what an agent remembers under a key."""
    return memory.get(key)


@router.put("/agents/{name}/memory/{key:path}", tags=["memory"])
async def write_memory(memory: TheMemory, key: MemoryKey, wanted: Remembering) -> Remembered:
    """Have an agent remember something under a key, in the place of what was there."""
    return memory.remember(key, wanted.value, wanted.days)


@router.delete("/agents/{name}/memory/{key:path}", tags=["memory"], status_code=HTTPStatus.NO_CONTENT)
async def delete_memory(memory: TheMemory, key: MemoryKey) -> None:
    """Have an agent forget what is under a key."""
    if not memory.forget(key):
        raise problems.NotFoundError("Nothing is remembered under this key, so nothing is forgotten.")


@router.get("/sessions", tags=["sessions"])
async def list_sessions(sessions: TheSessions, before: Before = None, limit: Limit = 50) -> Page[Session]:
    """List the sessions, the newest first."""
    return sessions.listed(before, limit)


@router.post("/sessions", tags=["sessions"], status_code=HTTPStatus.CREATED)
async def begin_session(sessions: TheSessions, opening: Opening) -> Session:
    """Begin a session: a conversation that each of its runs goes on with."""
    return sessions.begin(opening.agent)


@router.get("/sessions/{id}", tags=["sessions"])
async def read_session(sessions: TheSessions, id: Id) -> Session:
    """Read a session."""
    return sessions.get(id)


@router.get("/sessions/{id}/messages", tags=["sessions"])
async def list_messages(
    sessions: TheSessions,
    id: Id,
    after: Annotated[int, Query(ge=-1, le=2**31 - 1)] = -1,
    limit: Limit = 50,
) -> Page[Message]:
    """List the messages of a session, in their order."""
    return sessions.messages(id, after, limit)


@router.delete("/sessions/{id}", tags=["sessions"], status_code=HTTPStatus.NO_CONTENT)
async def delete_session(sessions: TheSessions, id: Id) -> None:
    """Delete a session with its messages; its runs stay."""
    sessions.delete(id)


@router.get("/runs", tags=["runs"])
async def list_runs(tenant: TheTenant, before: Before = None, limit: Limit = 50) -> Page[Run]:
    """List the runs, the newest first."""
    return tenant.runs.log.listed(before, limit)


@router.post("/runs", tags=["runs"], status_code=HTTPStatus.CREATED)
async def begin_run(tenant: TheTenant, order: Order) -> Run:
    """Begin a run, which goes on by itself."""
    return tenant.runs.log.get(tenant.runs.begin(order))


@router.get("/runs/{id}", tags=["runs"])
async def read_run(tenant: TheTenant, id: Id) -> Run:
    """Read a run."""
    return tenant.runs.log.get(id)


@router.get("/runs/{id}/events", tags=["runs"], response_class=StreamingResponse, responses=_EVENTS)
async def follow_run(tenant: TheTenant, id: Id, last: LastEvent = 0) -> StreamingResponse:
    """Follow a run from its beginning, or from after the last event that was read, until it ends."""
    tenant.runs.log.get(id)
    return _stream(tenant.runs.follow(id, last))


@router.post("/runs/{id}/cancel", tags=["runs"])
async def cancel_run(tenant: TheTenant, id: Id) -> Run:
    """Have a run end soon; one that has ended stays as it is."""
    return tenant.runs.cancel(id)


@router.delete("/runs/{id}", tags=["runs"], status_code=HTTPStatus.NO_CONTENT)
async def delete_run(tenant: TheTenant, id: Id) -> None:
    """Delete a run that has ended, with its events."""
    tenant.runs.log.delete(id)


@router.post("/agent", tags=["runs"], response_class=StreamingResponse, responses=_EVENTS)
async def ask(tenant: TheTenant, order: Order) -> StreamingResponse:
    """Begin a run and follow it, in one request. The header `Run` has its id."""
    number = tenant.runs.begin(order)
    return _stream(tenant.runs.follow(number), run=str(number))


@router.post("/addresses", tags=["files"], status_code=HTTPStatus.CREATED)
async def make_address(tenant: TheTenant, wanted: Wanted) -> Address:
    """Make an address of an upload or an artifact that can be read without a token, until it ends."""
    files = getattr(tenant.context.storage, wanted.folder)
    expires_at = datetime.now(UTC) + timedelta(seconds=wanted.seconds)
    return Address(address=files.address(wanted.name, wanted.seconds), expires_at=expires_at)


def _stream(events: Iterator[Event | None], **headers: str) -> StreamingResponse:
    async def lines() -> Any:
        try:
            for event in events:
                if event is None:
                    yield ": nothing new\n\n"
                else:
                    yield f"id: {event.number}\nevent: {event.event}\ndata: {json.dumps(event.data)}\n\n"
        except problems.TOLD as error:
            # The head is sent: that the connection ends early is what is left to say.
            raise ConnectionError(str(error)) from None

    return StreamingResponse(
        lines(), media_type="text/event-stream", headers={"Cache-Control": "no-store", **headers}
    )


def _problem(status: HTTPStatus, detail: str, **more: Any) -> JSONResponse:
    return JSONResponse(problems.said(status, detail, **more), status, media_type=problems.MEDIA_TYPE)


async def _told(_: Request, error: Exception) -> Response:
    answer = _problem(*problems.of(error))
    answer.headers.update(problems.headers(error))
    return answer


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - what it is registered for
    wrong = [
        {"where": "/".join(map(str, each["loc"])), "what": each["msg"].removeprefix("Value error, ")}
        for each in error.errors()
    ]
    told = f"{wrong[0]['where']}: {wrong[0]['what']}" if wrong else "it is no request"
    if any(each["where"] == "body" for each in wrong) and "json" not in request.headers.get(
        "Content-Type", "json"
    ):
        told += "; a body is JSON, and sent with Content-Type: application/json"
    return _problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"Nothing is done: {told}.", errors=wrong)


async def _unanswered(request: Request, error: Exception) -> Response:
    """Answer for a request that the framework itself refuses."""
    assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
    if isinstance(error.__cause__, problems.TOLD):
        return await _told(request, error.__cause__)
    detail = f"{request.method} {request.url.path}: there is no such thing here."
    if error.status_code == HTTPStatus.BAD_REQUEST:
        detail = f"The body cannot be read ({error.__cause__ or error.detail}), so nothing is done."
    answer = _problem(HTTPStatus(error.status_code), detail)
    answer.headers.update(error.headers or {})
    return answer


async def _refused_by_tables(_: Request, error: Exception) -> Response:
    said = str(error).strip().splitlines()[0]
    return _problem(
        HTTPStatus.CONFLICT, f"The tables are not as the platform made them, so this is not done: {said}."
    )


async def _broken(_: Request, error: Exception) -> Response:
    return _problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        f"This failed in the runtime itself ({type(error).__name__}); its log has more.",
    )


class _Application(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """Describe the files, too, which the server itself answers for."""
        if not self.openapi_schema:
            described = super().openapi()
            described["paths"].update(PATHS)
            schemas = described["components"]["schemas"]
            schemas["Problem"] = Problem.model_json_schema(by_alias=True)
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
        assert self.openapi_schema is not None  # noqa: S101 - it is kept
        return self.openapi_schema


application = _Application(
    title="agent-platform",
    summary="What a tenant's agents are, remember and do.",
    version="1",
    openapi_url="/v1/openapi.json",
    docs_url=None,
    redoc_url=None,
    redirect_slashes=False,
    # What is not said to be anything else is JSON.
    strict_content_type=False,
)
application.include_router(router)
for kind in problems.TOLD:
    application.add_exception_handler(kind, _told)
application.add_exception_handler(RequestValidationError, _invalid)
application.add_exception_handler(HTTPException, _unanswered)
application.add_exception_handler(psycopg.Error, _refused_by_tables)
application.add_exception_handler(Exception, _broken)
# Made once, before requests come side by side.
application.openapi()
