from collections.abc import Callable, Iterator

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError

from local import credentials, ports
from local.paths import DATA
from local.servers import Module
from local.servers import redis as server
from tests.local.servers.conftest import Running


@pytest.fixture(scope="module", autouse=True)
def _server(running: Running) -> Iterator[None]:
    with running(server):
        yield


@pytest.fixture
def owner() -> Iterator[Redis]:
    with Redis.from_url(server.environment()["REDIS_URL"], decode_responses=True) as client:
        yield client


def as_user(username: str | None = None, password: str | None = None) -> Redis:
    return Redis(host="127.0.0.1", port=ports.port("redis"), username=username, password=password)


def test_nobody_gets_in_without_a_password(owner: Redis) -> None:
    owner.ping()
    with as_user() as anybody, pytest.raises(AuthenticationError):
        anybody.get("x")
    with as_user(password="wrong") as anybody, pytest.raises(AuthenticationError):
        anybody.get("x")


def test_a_user_is_confined_to_its_keys(owner: Redis) -> None:
    owner.acl_setuser(
        "acme", enabled=True, passwords=["+pw"], keys=["activity:acme"], commands=["+get", "+set"]
    )
    with as_user(username="acme", password="pw") as acme:
        acme.set("activity:acme", "1")
        with pytest.raises(NoPermissionError):
            acme.get("activity:beta")
        with pytest.raises(NoPermissionError):
            acme.flushall()


def test_keys_and_users_outlive_a_kill(
    owner: Redis, kill: Callable[[Module], None], up: Callable[[Module], None]
) -> None:
    owner.set("activity:acme", "now")
    owner.acl_setuser("kept", enabled=True, passwords=["+pw"], keys=["*"], commands=["+get"])
    owner.acl_save()
    kill(server)
    up(server)
    assert owner.get("activity:acme") == "now"
    with as_user(username="kept", password="pw") as kept:
        assert kept.get("activity:acme") == b"now"


def test_it_listens_on_loopback_and_its_files_are_private(owner: Redis) -> None:
    assert owner.config_get("bind")["bind"] == "127.0.0.1"
    files = [path for path in (DATA / "redis").rglob("*") if path.is_file()]
    assert files
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)


def test_what_redis_6_kept_is_taken_over(
    owner: Redis, kill: Callable[[Module], None], up: Callable[[Module], None]
) -> None:
    home = DATA / "redis"
    kill(server)
    for path in sorted(home.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (home / "redis.conf").write_text("appendonly yes\n")
    (home / "users.acl").write_text(
        f"user default on >{credentials.secret('redis')} ~* &* +@all\n"
        "user old on >pw ~activity:* resetchannels -@all +get\n"
    )
    commands = [["SELECT", "0"], ["SET", "activity:acme", "before"]]
    (home / "appendonly.aof").write_text("".join(map(_spoken, commands)), newline="")

    up(server)

    assert owner.get("activity:acme") == "before"
    assert owner.info("server")["server_name"] == "valkey"
    with as_user(username="old", password="pw") as old:
        assert old.get("activity:acme") == b"before"
    assert not (home / "redis.conf").exists()


def _spoken(command: list[str]) -> str:
    """A command as the protocol, and so the append-only file, has it."""
    return f"*{len(command)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in command)
