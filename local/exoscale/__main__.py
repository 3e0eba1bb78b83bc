"""`python -m local.exoscale`: serve until SIGTERM."""

import logging
import signal
import sqlite3
import sys
import threading

from local.errors import LocalError
from local.exoscale import iam, proxy, server
from local.exoscale.store import Store
from local.servers import exoscale


def main() -> None:
    """Serve the API and the proxy, each on its port, in one process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    store = Store(exoscale.STATE)
    iam.publish_all(store)
    api = server.Api(store, exoscale.owner())
    listeners = (
        server.listen(api, exoscale.port()),
        proxy.listen(api, exoscale.proxy_port(), exoscale.CERTIFICATE),
    )
    for listener in listeners:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        main()
    except LocalError as error:
        sys.exit(f"exoscale: {error}")
    except sqlite3.DatabaseError as error:
        sys.exit(
            f"exoscale: {exoscale.STATE}: cannot be read ({error}). The emulator cannot go on without it; "
            "restore the file, or start afresh with `make down DATA=delete`."
        )
