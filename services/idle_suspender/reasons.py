"""What is said of a judgement."""

from datetime import UTC, datetime

from services.activity.store import Decision, Judged

_SIGNALS = {
    "seen": "request",
    "ssh": "SSH session",
    "load": "load",
    "network": "network traffic",
}


def explain(judged: Judged) -> tuple[Decision, str]:
    """Return the decision and the reason for leaving a machine running."""
    who, long = judged.who, duration(judged.seconds)
    match judged.kind:
        case "hold":
            instance, _, kind = who.rpartition("/")
            return "awake", f"{'open stream' if kind == 'stream' else 'request in flight'} ({instance})"
        case "lease":
            return "awake", f"lease `{who}` until {datetime.fromtimestamp(judged.at, UTC):%H:%M} UTC"
        case "recent" if who == "started":
            return "awake", f"young (started {long} ago)"
        case "recent":
            return "awake", f"{_SIGNALS.get(who, who)} {long} ago"
        case "idle":
            return "suspended", f"idle {long}"
        case "claimed":
            return "left", "another sweep is stopping it"
        case "future":
            return "left", f"its last sign ({who}) is {long} ahead of the clock"
        case "no gateway":
            return "left", "no gateway reports activity"
        case "new gateway":
            return "left", f"gateways report activity for only {long}"
        case "new server":
            return "left", f"Redis has run for only {long}"
        case "unreadable":
            return "left", f"its activity cannot be read: {who}"


def duration(seconds: float) -> str:
    """Return a time span as people say it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds // 60:.0f} min"
    return f"{seconds // 3600:.0f} h"
