"""A bucket that fills and keys that are lost: each is told in one message, and nothing is lost by it."""

import json
from collections.abc import Callable, Iterator

import pulumi
import pytest
from pulumi import automation as auto

from local import backups, credentials, engine, state, store, supervisor, toolchain
from local.errors import LocalError
from local.servers import object_storage, postgres, vault
from tests.restore.conftest import CONSOLE, administrator, client


@pytest.fixture
def full(servers: None) -> Iterator[None]:
    """The backups bucket has reached its quota."""
    name = backups.bucket()
    client().put_object(Bucket=name, Key="filler", Body=b"0" * 2**21)
    object_storage._shell(f"s3.bucket.quota -name={name} -op=set -sizeMB=1")
    object_storage._shell("s3.bucket.quota.enforce -apply")
    yield
    make_room()


def make_room() -> None:
    object_storage._shell(f"s3.bucket.quota -name={backups.bucket()} -op=remove")
    object_storage._shell("s3.bucket.quota.enforce -apply")
    client().delete_object(Bucket=backups.bucket(), Key="filler")


def stack(folder: str, passphrase: str, program: Callable[[], None] = lambda: None) -> auto.Stack:
    """A stack in a backend of its own."""
    place = {
        "PULUMI_BACKEND_URL": store.private_folder(engine._backend(folder)).as_uri(),
        "PULUMI_CONFIG_PASSPHRASE": passphrase,
    }
    return auto.create_or_select_stack(
        stack_name=engine.LOCAL_STACK,
        project_name=engine.PROJECT,
        program=program,
        opts=engine._workspace(store.private_folder(engine._home(folder)), place),
    )


def test_a_full_bucket_is_told_and_the_log_is_archived_once_it_has_room(
    full: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backups, "_PATIENCE", 5)
    with pytest.raises(LocalError, match=r"^postgres: its log is archived up to .* does not follow") as told:
        backups.archive_all()
    assert "\n" not in str(told.value)
    with pytest.raises(LocalError, match=r"^postgres: barman-cloud-backup failed: .*PutObject"):
        backups.base_backup()
    with administrator() as admin:
        # What the alert DatabaseArchiveStands is about.
        (stands,) = admin.execute(
            "SELECT last_failed_time > last_archived_time FROM pg_stat_archiver"
        ).fetchone() or (None,)
    assert stands
    postgres.write_something()

    make_room()

    monkeypatch.setattr(backups, "_PATIENCE", 90)
    backups.archive_all()


def test_a_snapshot_whose_key_is_lost_is_told(servers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vault, "_UNSEAL", 8)
    vault.prepare()
    (service,) = vault.services()
    supervisor.start(service, CONSOLE)
    supervisor.wait_until(vault.bootstrap, timeout=30, what="vault: its first contents")
    content = vault.snapshot()
    supervisor.kill("vault")
    vault.forget_disk()
    kept = credentials.secret("vault-seal")
    credentials.keep({"vault-seal": "another"})
    try:
        vault.prepare()
        with pytest.raises(
            LocalError, match=r"^vault: it took the snapshot and does not unseal, so .* is another key"
        ):
            vault.restore(content, CONSOLE)
    finally:
        credentials.keep({"vault-seal": kept})
        supervisor.stop("vault")


def test_a_copy_of_the_state_opens_with_its_passphrase_and_with_no_other(
    servers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    toolchain.ensure(CONSOLE, "pulumi")
    engine.install_plugins(engine.LOCAL_STACK, official_only=False)
    first = stack("first", "kept", lambda: pulumi.export("secret", pulumi.Output.secret("hidden")))
    first.up()
    file = engine._backend("first") / ".pulumi" / "stacks" / engine.PROJECT / f"{engine.LOCAL_STACK}.json"
    written = json.loads(file.read_text())
    told = {"version": written["version"], "deployment": written["checkpoint"]["latest"]}
    monkeypatch.setattr(engine, "exported", lambda _: told)
    state.keep()

    second = stack("second", "kept")
    state.bring_back(second)
    assert second.outputs()["secret"].value == "hidden"

    with pytest.raises(LocalError, match=r"^the copy of the state cannot be taken: .*incorrect passphrase"):
        state.bring_back(stack("third", "another"))
