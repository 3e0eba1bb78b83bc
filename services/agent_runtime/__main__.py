"""`python -m services.agent_runtime`: serve until told to stop."""

import os
import signal
import sys
import threading

from services.agent_runtime import public, use
from services.agent_runtime.identity import NotReadyError
from services.agent_runtime.server import Server
from services.agent_runtime.settings import Settings
from services.agent_runtime.tenants import Tenants


def main() -> None:
    """Serve at once: whoever asks for health is told what is missing."""
    settings = Settings.read(os.environ)
    tenants = Tenants(settings)
    if tenants.shared:
        public.close_urllib()
    server = Server((settings.address, settings.port), tenants)
    if settings.workspace:
        threading.Thread(target=_report, args=(tenants,), daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    sys.stderr.write(f"Listening on {settings.address}:{settings.port}.\n")
    server.serve_forever(poll_interval=0.1)


def _report(tenants: Tenants) -> None:
    try:
        use.report(tenants.only().gateway)
    except NotReadyError as error:
        sys.stderr.write(f"{error}\n")


if __name__ == "__main__":
    main()
