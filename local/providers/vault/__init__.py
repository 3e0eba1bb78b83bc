"""Stand-in for the plugin `vault`: mounts, policies and roles in a real Vault or OpenBao server."""
