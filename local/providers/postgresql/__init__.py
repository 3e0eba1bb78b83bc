"""Stand-in for the plugin `postgresql`: roles, schemas and privileges in a real PostgreSQL server."""
