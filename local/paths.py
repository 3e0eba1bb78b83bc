"""Where the embedded platform keeps its things."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The checkout."""

DATA = Path(os.environ.get("AGENT_PLATFORM_DATA", ROOT / ".local")).resolve()
"""Everything the servers write: one folder, ignored by git; `AGENT_PLATFORM_DATA` moves it."""

LOGS = DATA / "logs"
"""One `NAME.log` per server."""

RUN = DATA / "run"
"""One `NAME.json` per running server, and the ports they keep."""

CACHE = (
    Path(
        os.environ.get(
            "AGENT_PLATFORM_CACHE",
            Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "agent-platform",
        )
    )
    .expanduser()
    .resolve()
)
"""Built tools, keyed by their pinned versions; shared by all checkouts of a user."""
