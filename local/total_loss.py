"""`make drill DATA=lose`: loses all but object storage, git and what operators keep, and brings it back.

Object storage has the backups and the copy of the state. Operators keep passwords, the passphrase, and what
unseals Vault. Vault comes back from its snapshot, PostgreSQL from its archive, the state from its copy. A
refresh then finds what is gone, and an update makes it anew, in a new cluster.
"""

import shutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from rich.console import Console

from local import backups, drill, engine, servers, state, store, supervisor
from local.paths import DATA
from local.servers import object_storage, postgres, vault

LOST_FOR_GOOD = (
    "workspaces' volumes, and what runs in machines (on one machine no volume is backed up)",
    "what Redis held: activity and leases; the ledger's counts are PostgreSQL's",
    "the keys of Exoscale to the tenants' prefixes: they are made anew, and Vault gets the new ones",
)
"""The things that do not come back."""

_KEPT = {
    *("object-storage", "credentials.json"),
    # No data: the ports that addresses in the state lead to, and what was said.
    *("run", "logs"),
}
"""The entries of the data folder that outlive the disaster."""
_KEYS = "object-storage"
"""The secret with a key that is made anew."""


def run(console: Console) -> list[drill.Outcome]:
    """Lose everything, and bring it back. Raises LocalError if that fails."""
    for told in LOST_FOR_GOOD:
        console.print(f"Will not come back: {told}.")
    outcomes: list[drill.Outcome] = []
    with drill.recorded(outcomes), drill.data(drill.tenants()):
        before, at = _state(), datetime.now(UTC)
        backups.archive_all()
        key = drill.keep_snapshot(at)
        drill.write_what_is_lost()
        gone = datetime.now(UTC)
        _lose(console)
        begun = time.monotonic()
        _bring_back(key, console)
        outcomes.append(drill.outcome("everything gone", before, _state(), gone - at, begun))
    backups.base_backup()
    state.keep()
    return outcomes


def _lose(console: Console) -> None:
    for name in ("postgres", "vault"):
        supervisor.kill(name)  # before either writes out or archives anything
    servers.stop_all(console)
    for path in DATA.iterdir():
        if path.name in _KEPT:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _bring_back(key: str, console: Console) -> None:
    object_storage.prepare()
    for service in object_storage.services():
        supervisor.start(service, console)
    vault.prepare()
    vault.restore(drill.snapshot(key), console)
    store.private_folder(postgres.CLUSTER.parent)
    backups.recover_disk(console)
    servers.start_all(console)
    engine.install_plugins(engine.LOCAL_STACK, official_only=False)
    selected = engine.stack(engine.LOCAL_STACK)
    state.bring_back(selected)
    with console.status("Asking the servers what is gone …"):
        engine.refresh(selected)
    with console.status("Making it anew …"):
        engine.up(selected, output=lambda _line: None)


def _state() -> Mapping[str, str]:
    """Return digests of tables, secrets and objects, and what the program has declared."""
    secrets = {path: digest for path, digest in vault.digests().items() if not path.endswith(f"/{_KEYS}")}
    resources = engine.exported(engine.LOCAL_STACK)["deployment"]["resources"]
    declared = {str(each["urn"]): "declared" for each in resources}
    return {**drill.database_state(), **secrets, **drill.objects_state(), **declared}
