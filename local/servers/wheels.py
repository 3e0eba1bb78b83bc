"""Where the servers are that come as Python wheels."""

import importlib.util
from pathlib import Path

from local.errors import LocalError


def folder(package: str) -> Path:
    """Return the installed package's folder, without importing it: some do work, or warn, when imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise LocalError(
            f"the Python package {package} is not installed, so its server cannot start; run `make up`, "
            "which installs everything in requirements.lock."
        )
    return Path(spec.submodule_search_locations[0])
