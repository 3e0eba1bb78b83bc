"""`python -m services.agent_runtime`: serve until told to stop."""

import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

from services.agent_runtime import HANDED_OVER, identity, use
from services.agent_runtime.credentials import Account
from services.agent_runtime.files import FolderFiles
from services.agent_runtime.identity import Identity, NotReadyError
from services.agent_runtime.server import Server
from services.agent_runtime.settings import Settings
from services.agent_runtime.tenants import Tenant, Tenants
from services.agent_runtime.vault import Vault

_AGAIN_SECONDS = 5.0


def main() -> None:
    """Serve at once: whoever asks for health is told what is missing."""
    settings = Settings.read(os.environ)
    if settings.workspace and (known := _leaving(settings)):
        _leave(known, settings.workspace, settings.account_token)
    tenants = Tenants(settings)
    server = Server((settings.address, settings.port), tenants)
    if settings.workspace:
        threading.Thread(target=_report, args=(tenants,), daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    sys.stderr.write(f"Listening on {settings.address}:{settings.port}.\n")
    server.serve_forever(poll_interval=0.1)
    server.server_close()
    # An MCP server that does not let go of a thread would keep the process.
    os._exit(0)


def _leaving(settings: Settings) -> Identity | None:
    try:
        known = identity.read(settings.identity)
    except NotReadyError:
        return None
    return known if known.leaving else None


def _leave(known: Identity, workspace: Path, account_token: Path) -> None:
    """Hand the workspace over, and have the machine switched off: whoever serves could still write to it."""
    # Loaded only where it is needed, as machines do that are about to go.
    from services.agent_runtime.handover import leave

    leave(FolderFiles(workspace), Vault(known, Account(account_token, known.tenant)), known.machine)
    sys.stderr.write("The handover has ended.\n")
    os._exit(HANDED_OVER)


def _report(tenants: Tenants) -> None:
    """Report for ever: without it the machine is stopped while it is in use, so the runtime ends with it."""
    try:
        use.report(_identified(tenants).gateway)
    except Exception:  # noqa: BLE001 - whoever started the runtime starts it anew
        traceback.print_exc()
    finally:
        os._exit(1)


def _identified(tenants: Tenants) -> Tenant:
    while True:
        try:
            return tenants.only()
        except NotReadyError as error:
            sys.stderr.write(f"{error}\n")
        time.sleep(_AGAIN_SECONDS)


if __name__ == "__main__":
    main()
