"""The description of the API's files, for which the runtime's server answers itself (OpenAPI 3.1)."""

from typing import Any

from services.agent_runtime import problems

PROBLEM = {
    "description": "The request was refused.",
    "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
"""The answer to a request that is refused, the same for all."""
_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_FOLDER = {
    "type": "object",
    "required": ["files", "more"],
    "properties": {
        "files": {
            "type": "array",
            "items": {"type": "string"},
            "description": "A folder's name ends in a slash.",
        },
        "more": {"type": "boolean", "description": "Whether it holds more than these."},
    },
}


def _named(key: str) -> dict[str, Any]:
    schema = {"type": "object", "required": [key], "properties": {key: {"type": "string"}}}
    return {"application/json": {"schema": schema}}


def _paths(name: str, what: str) -> dict[str, Any]:
    parameter = {
        "name": "path",
        "in": "path",
        "required": True,
        "description": "May have slashes in it.",
        "schema": {"type": "string", "minLength": 1},
    }
    shared: dict[str, Any] = {"tags": ["files"], "parameters": [parameter]}
    found = {"application/json": {"schema": _FOLDER}, **_BYTES}
    return {
        f"/v1/{name}/{{path}}": {
            "get": {
                **shared,
                "summary": f"Read a file of {what}, or list a folder",
                "operationId": f"read_{name}",
                "responses": {
                    "200": {"description": "The file's bytes, or what is in the folder.", "content": found},
                    "default": PROBLEM,
                },
            },
            "put": {
                **shared,
                "summary": f"Write a file of {what}, as a whole or not at all",
                "operationId": f"write_{name}",
                "requestBody": {"required": True, "content": _BYTES},
                "responses": {
                    "201": {"description": "It is written.", "content": _named("written")},
                    "default": PROBLEM,
                },
            },
            "delete": {
                **shared,
                "summary": f"Delete a file of {what}, or a folder with all in it",
                "operationId": f"delete_{name}",
                "responses": {
                    "200": {"description": "It is deleted.", "content": _named("deleted")},
                    "default": PROBLEM,
                },
            },
        }
    }


PATHS = {
    **_paths("files", "the workspace"),
    **_paths("uploads", "what is given to agents"),
    **_paths("artifacts", "what agents made"),
}
