"""Runs the stand-in as a plugin of the engine."""

from local.providers.server import serve
from local.providers.vault.plugin import VaultPlugin

if __name__ == "__main__":
    serve(VaultPlugin())
