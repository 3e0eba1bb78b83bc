"""Runs the stand-in as a plugin of the engine."""

from local.providers.postgresql.plugin import PostgreSQL
from local.providers.server import serve

if __name__ == "__main__":
    serve(PostgreSQL())
