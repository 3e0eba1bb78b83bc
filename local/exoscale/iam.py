"""IAM roles and API keys. A key is also an identity of the S3 server, as limited as its role says."""

import secrets
import threading
from functools import partial
from typing import TYPE_CHECKING

import boto3

from local.errors import LocalError
from local.exoscale import policy
from local.exoscale.compute import stable_id
from local.exoscale.contract import Json
from local.exoscale.errors import conflict, forbidden, invalid
from local.exoscale.policy import PolicyError
from local.exoscale.request import Request, changed, now, serves, started
from local.exoscale.store import GLOBAL, Store
from local.servers import object_storage

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_IDENTITIES = threading.Lock()
"""The S3 server's list of identities is read, changed and written back: one at a time."""
_OPEN: Json = {"default-service-strategy": "allow", "services": {}}


@serves("get-organization")
def get_organization(_: Request) -> Json:
    """The organization that everything belongs to."""
    return {"id": stable_id("organization/local"), "name": "local", "country": "CH", "currency": "CHF"}


@serves("create-iam-role")
def create_role(request: Request) -> Json:
    """What its keys may do; its name is unique in the organization."""
    body = {"editable": True, "labels": {}, "permissions": [], "policy": _OPEN, **request.body}
    _check(body["policy"])
    if any(role["name"] == body["name"] for role in request.store.all("iam-role", GLOBAL)):
        raise conflict(f"iam-role {body['name']} exists already")
    role = request.store.put("iam-role", GLOBAL, body)
    return started(request, "get-iam-role", "iam-role", role["id"])


@serves("list-iam-roles")
def list_roles(request: Request) -> Json:
    """All roles."""
    return {"iam-roles": request.store.all("iam-role", GLOBAL)}


@serves("get-iam-role")
def get_role(request: Request) -> Json:
    """One role."""
    return request.store.get("iam-role", GLOBAL, request.id)


@serves("update-iam-role")
def update_role(request: Request) -> Json:
    """Description, labels, permissions."""
    request.store.put(
        "iam-role", GLOBAL, changed(request.store.get("iam-role", GLOBAL, request.id), request.body)
    )
    return started(request, "get-iam-role", "iam-role", request.id)


@serves("update-iam-role-policy")
def update_role_policy(request: Request) -> Json:
    """Takes effect for all keys of the role at once."""
    role = request.store.get("iam-role", GLOBAL, request.id)
    if not role["editable"]:
        raise forbidden(f"iam-role {role['name']} is not editable")
    _check(request.body)
    role["policy"] = request.body
    request.store.put("iam-role", GLOBAL, role)
    for key in _keys_of(request.store, request.id):
        request.after.append(partial(_publish, request.store, key, role))
    return started(request, "get-iam-role", "iam-role", request.id)


@serves("delete-iam-role")
def delete_role(request: Request) -> Json:
    """Refused while it has keys."""
    if keys := _keys_of(request.store, request.id):
        raise conflict(f"iam-role {request.id} is in use by API key {keys[0]['name']} ({keys[0]['key']})")
    request.store.delete("iam-role", GLOBAL, request.id)
    return started(request, "get-iam-role", "iam-role", request.id)


@serves("create-api-key")
def create_key(request: Request) -> Json:
    """Answers the secret, this once."""
    role = request.store.get("iam-role", GLOBAL, request.body["role-id"])
    key = {
        "name": request.body["name"],
        "key": f"EXO{secrets.token_hex(12)}",
        "role-id": role["id"],
        "_secret": secrets.token_urlsafe(32),
        "_created": now(),
    }
    request.store.put("api-key", GLOBAL, key, key["key"])
    request.after.append(partial(_publish_new, request.store, key, role))
    return _shown(key) | {"secret": key["_secret"]}


@serves("list-api-keys")
def list_keys(request: Request) -> Json:
    """All keys, without their secrets."""
    return {"api-keys": [_shown(key) for key in request.store.all("api-key", GLOBAL)]}


@serves("get-api-key")
def get_key(request: Request) -> Json:
    """One key, without its secret."""
    return _shown(request.store.get("api-key", GLOBAL, request.id))


@serves("delete-api-key")
def delete_key(request: Request) -> Json:
    """Ends its S3 identity first: a key that is still listed can be deleted again, another is dead."""
    request.store.get("api-key", GLOBAL, request.id)
    with _IDENTITIES:
        object_storage.delete_identity(request.id)
    request.store.delete("api-key", GLOBAL, request.id)
    # The reference of an operation is a UUID, and a key has none.
    return started(request, "get-api-key", "api-key", stable_id(f"api-key/{request.id}"))


@serves("list-sos-buckets-usage")
def list_buckets_usage(request: Request) -> Json:
    """Every bucket with the size of its current objects."""
    s3 = _s3()
    return {
        "sos-buckets-usage": [
            {
                "name": bucket["Name"],
                "created-at": bucket["CreationDate"].strftime("%Y-%m-%dT%H:%M:%SZ"),
                "zone-name": request.zone,
                "size": sum(
                    entry["Size"]
                    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket["Name"])
                    for entry in page.get("Contents", [])
                ),
            }
            for bucket in s3.list_buckets()["Buckets"]
        ]
    }


def publish_all(store: Store) -> None:
    """Make the S3 server know every key that it missed because the emulator was killed in between."""
    for key in store.all("api-key", GLOBAL):
        _publish(store, key, store.get("iam-role", GLOBAL, key["role-id"]))


def _publish_new(store: Store, key: Json, role: Json) -> None:
    try:
        _publish(store, key, role)
    except LocalError:
        # Nobody will ever learn the secret of a key whose creation failed.
        with store.transaction():
            store.delete("api-key", GLOBAL, key["key"])
        raise


def _publish(store: Store, key: Json, role: Json) -> None:
    statements = policy.storage_statements(role["policy"])
    if key.get("_statements") == statements:
        return
    with _IDENTITIES:
        if statements:
            object_storage.put_identity(key["key"], key["key"], key["_secret"], statements)
        else:
            object_storage.delete_identity(key["key"])
    with store.transaction():
        store.put("api-key", GLOBAL, key | {"_statements": statements}, key["key"])


def _keys_of(store: Store, role: str) -> list[Json]:
    return [key for key in store.all("api-key", GLOBAL) if key["role-id"] == role]


def _shown(key: Json) -> Json:
    return {field: key[field] for field in ("name", "key", "role-id")}


def _check(rules: Json) -> None:
    try:
        policy.check(rules)
    except PolicyError as error:
        raise invalid(f"policy: {error}") from None


def _s3() -> "S3Client":
    environment = object_storage.environment()
    return boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        region_name=environment["AWS_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )
