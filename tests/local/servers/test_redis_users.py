"""The users that the program makes in a given Redis: they can do their work, and nothing else."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from redis import Redis
from redis import asyncio as aio
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from infra.platform.redis import RIGHTS
from infra.platform.redis_user import RedisUserProvider
from local import credentials, ports
from local.servers import Module
from local.servers import redis as server
from services.activity import store
from services.activity.store import Activity, Machine, Published, Usage
from tests.local.servers.conftest import Running

Result = TypeVar("Result")
PROVIDER = RedisUserProvider()


def props(name: str, password: str = "drawn") -> dict[str, Any]:
    where = {
        "host": "127.0.0.1",
        "port": float(ports.port("redis")),
        "tls": False,
        "password": credentials.secret("redis"),
    }
    return {"name": name, "password": password, "rights": RIGHTS[name], "server": where}


@pytest.fixture(scope="module", autouse=True)
def _users(running: Running) -> Iterator[None]:
    with running(server):
        for name in RIGHTS:
            PROVIDER.create(props(name))
        yield


@pytest.mark.parametrize(
    ("name", "scripts", "others"),
    [
        (
            "gateway",
            ("common", "alive", "enter", "standing", "started", "lease", "report", "wake"),
            {"hgetall", "multi", "exec"},
        ),
        ("idle-suspender", ("common", "rule", "judge", "claim", "settle", "publish", "summary"), set[str]()),
    ],
)
def test_each_may_run_the_commands_of_its_scripts_and_no_others(
    name: str, scripts: tuple[str, ...], others: set[str]
) -> None:
    folder = Path(store.__file__).parent / "lua"
    called = {
        command.lower()
        for script in scripts
        for command in re.findall(r"(?:redis\.p?call|\bask)\('(\w+)'", (folder / f"{script}.lua").read_text())
    }
    connection = {"ping", "client|setinfo", "evalsha", "script|load", "time"}
    allowed = {word.removeprefix("+") for word in RIGHTS[name].split() if word.startswith("+")}
    assert allowed == called | others | connection


def as_user(name: str, password: str = "drawn") -> Redis:
    return Redis(host="127.0.0.1", port=ports.port("redis"), username=name, password=password)


def run(name: str, steps: Callable[[Activity], Awaitable[Result]]) -> Result:
    async def entered() -> Result:
        async with aio.Redis(
            host="127.0.0.1",
            port=ports.port("redis"),
            username=name,
            password="drawn",
            decode_responses=True,
        ) as client:
            return await steps(Activity(client))

    return asyncio.run(entered())


def test_the_gateway_can_do_its_work() -> None:
    async def steps(activity: Activity) -> None:
        await activity.alive()
        await activity.enter([("corvus", "gateway-1/request")])
        standing = await activity.standing("corvus")
        await activity.take_lease("corvus", "job", 60)
        await activity.release_lease("corvus", "job")
        await activity.report("corvus", ["ssh"])
        await activity.record_wake("corvus", {"seconds": 2.5})
        assert await activity.started("corvus", standing.generation)
        await activity.verdicts(["corvus"])
        await activity.usage(["corvus"], "2026-01")
        await activity.last_sweep()
        assert (await activity.wakes(["corvus"]))["corvus"]["seconds"] == 2.5

    run("gateway", steps)


def test_the_idle_suspender_can_do_its_work() -> None:
    async def steps(activity: Activity) -> None:
        await activity.now()
        machine = Machine(tenant="beta", limit=900, since=0)
        await activity.judge([machine])
        await activity.claim(machine, "sweep-1")
        await activity.sent("beta", "sweep-1")
        await activity.withdraw("beta", "sweep-1")
        await activity.publish([Published(tenant="beta", decision="awake", reason="why")])
        await activity.record_sweep({"at": 1})

    run("idle-suspender", steps)


def test_the_accounting_can_do_its_work() -> None:
    async def steps(activity: Activity) -> None:
        await activity.record_usage("2026-01", {"gamma": Usage(awake_seconds={3: 60.0}, last_awake=1)})

    run("accounting", steps)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("gateway", ("HSET", "suspension:acme", "state", "sent")),
        ("gateway", ("DEL", "suspension:acme")),
        ("idle-suspender", ("HSET", "activity:acme", "seen", "0")),
        ("idle-suspender", ("DEL", "activity:acme:holds")),
        *(
            (name, command)
            for name in RIGHTS
            for command in (
                ("GET", "other"),
                ("KEYS", "*"),
                ("SCAN", "0"),
                ("FLUSHALL",),
                ("CONFIG", "GET", "*"),
                ("ACL", "LIST"),
                ("CLIENT", "LIST"),
                ("SCRIPT", "FLUSH"),
                ("PUBLISH", "news", "x"),
            )
        ),
    ],
)
def test_neither_can_do_anything_else(name: str, command: tuple[str, ...]) -> None:
    with as_user(name) as client, pytest.raises(NoPermissionError):
        client.execute_command(*command)


def test_a_script_may_do_no_more_than_who_runs_it() -> None:
    with as_user("gateway") as gateway:
        digest = gateway.script_load("return redis.call('HSET', 'suspension:acme', 'state', 'sent')")
        with pytest.raises(ResponseError, match="No permissions to access a key"):
            gateway.evalsha(digest, 0)


def test_a_new_password_replaces_the_old_one_and_outlives_a_kill(
    kill: Callable[[Module], None], up: Callable[[Module], None]
) -> None:
    PROVIDER.update("gateway", props("gateway"), props("gateway", "another"))
    kill(server)
    up(server)
    with as_user("gateway", "another") as client:
        client.ping()
    with as_user("gateway") as client, pytest.raises(AuthenticationError):
        client.ping()


def test_a_password_shows_in_no_message() -> None:
    wrong = props("gateway")
    wrong["server"] = {**wrong["server"], "password": "not-the-password"}
    with pytest.raises(RuntimeError, match="does not keep the user gateway") as refused:
        PROVIDER.create(wrong)
    assert "not-the-password" not in str(refused.value)
    assert "drawn" not in str(refused.value)


def test_a_user_that_is_deleted_is_gone() -> None:
    PROVIDER.delete("idle-suspender", props("idle-suspender"))
    with as_user("idle-suspender") as client, pytest.raises(AuthenticationError):
        client.ping()


def test_a_user_that_redis_has_lost_is_noticed_by_a_refresh() -> None:
    wanted = {**props("gateway"), "name": "fleeting"}
    PROVIDER.create(wanted)
    known = PROVIDER.read("fleeting", wanted)
    assert (known.id, known.outs) == ("fleeting", wanted)
    PROVIDER.delete("fleeting", wanted)
    assert PROVIDER.read("fleeting", wanted).id == ""
