"""A small MCP server that every image has: `python3 -m services.agent_runtime.clock`."""

from datetime import UTC, datetime

from mcp.server import MCPServer

server = MCPServer("clock")


@server.tool()
def now() -> str:
    """Tell the time in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    server.run()
