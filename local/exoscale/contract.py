"""The official OpenAPI document, as the `exoscale` package ships it: the operations and what they carry."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from importlib.resources import files
from typing import Any

from openapi_schema_validator import OAS30Validator, oas30_format_checker

from local.exoscale.errors import ApiError, invalid

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One entry of `paths`."""

    name: str
    method: str
    path: re.Pattern[str]
    parameters: list[Json]
    body: Json | None
    response: Json | None


@cache
def document() -> Json:
    """The document itself."""
    text = files("exoscale").joinpath("openapi.json").read_text(encoding="utf-8")
    loaded: Json = json.loads(text, object_hook=_nullable_reference)
    return loaded


@cache
def zones() -> tuple[str, ...]:
    """The names of all zones."""
    return tuple(document()["components"]["schemas"]["zone-name"]["enum"])


def host(zone: str) -> str:
    """The official name of a zone's API."""
    return f"api-{zone}.exoscale.com"


@cache
def operations() -> tuple[Operation, ...]:
    """All operations of the document, served here or not."""
    return tuple(
        Operation(
            name=entry["operationId"],
            method=method.upper(),
            path=_pattern(path),
            parameters=entry.get("parameters", []),
            body=_schema(entry.get("requestBody")),
            response=_schema(entry["responses"].get("200")),
        )
        for path, methods in document()["paths"].items()
        for method, entry in methods.items()
    )


def find(method: str, path: str) -> tuple[Operation, dict[str, str]]:
    """The operation behind a method and a path below `/v2`, with its path parameters; else `ApiError` 404."""
    for operation in operations():
        if operation.method == method and (match := operation.path.fullmatch(path)):
            names = [p["name"] for p in operation.parameters if p["in"] == "path"]
            return operation, {name: match[name.replace("-", "_")] for name in names}
    raise ApiError(HTTPStatus.NOT_FOUND, f"no such operation: {method} {path}")


def check_request(operation: Operation, parameters: Mapping[str, str], body: Json | None) -> None:
    """Raise `ApiError` 400 naming the parameter or field that the document does not allow."""
    known = {p["name"]: p for p in operation.parameters}
    for name, value in parameters.items():
        if name not in known:
            raise invalid(f"{operation.name}: unknown parameter {name}")
        _check(f"{operation.name}: parameter {name}", known[name]["schema"], value)
    if operation.body is None:
        if body:
            raise invalid(f"{operation.name}: takes no body")
        return
    if body is None:
        raise invalid(f"{operation.name}: body missing")
    _check(operation.name, operation.body, body)
    if unknown := sorted(set(body) - set(_properties(operation.body))):
        raise invalid(f"{operation.name}: unknown field {', '.join(unknown)}")


def check_response(operation: Operation, body: Json) -> None:
    """Raise `ApiError` 500 if what the emulator is about to answer is not what the document promises."""
    if operation.response is None:
        return
    try:
        _check(operation.name, operation.response, body)
    except ApiError as error:
        raise ApiError(
            HTTPStatus.INTERNAL_SERVER_ERROR, f"emulator answers outside the contract: {error.message}"
        ) from None


def _nullable_reference(schema: Json) -> Json:
    # OpenAPI 3.0 ignores what stands beside a `$ref`, but the service means it: null takes such a field away.
    if "$ref" in schema and schema.get("nullable"):
        return {"anyOf": [{"$ref": schema["$ref"]}, {"enum": [None]}]}
    return schema


def _pattern(path: str) -> re.Pattern[str]:
    parts = re.split(r"\{([^}]+)\}", path)
    return re.compile(
        "".join(
            re.escape(part) if i % 2 == 0 else f"(?P<{part.replace('-', '_')}>[^/:]+)"
            for i, part in enumerate(parts)
        )
    )


def _schema(carrier: Json | None) -> Json | None:
    schema: Json | None = (carrier or {}).get("content", {}).get("application/json", {}).get("schema")
    return schema


def _properties(schema: Json) -> Json:
    if reference := schema.get("$ref"):
        schema = document()["components"]["schemas"][reference.rsplit("/", 1)[1]]
    properties: Json = schema.get("properties", {})
    return properties


def _check(where: str, schema: Json, value: object) -> None:
    # The document marks some fields readOnly and writeOnly against its own use of them (the security group id
    # of a rule, the rules of a group), so neither is enforced.
    rooted = {"allOf": [schema], "components": document()["components"]}
    validator = OAS30Validator(rooted, format_checker=oas30_format_checker)
    for error in validator.iter_errors(value):
        field = ".".join(str(part) for part in error.absolute_path)
        raise invalid(f"{where}{'.' + field if field else ''}: {_reason(error)}")


def _reason(error: Any) -> str:
    while error.context:
        error = error.context[0]
    return str(error.message)
