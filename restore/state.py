"""Keep a copy of a stack's state in the backups bucket, and get the last one back.

`keep` reads what `pulumi stack export` writes, `fetch` writes what `pulumi stack import` reads. Of a cluster
that is gone nobody can ask what is left: `fetch --cluster-lost` leaves its objects out, and the next update
makes them.

Secrets in a copy are encrypted as in the state itself. It opens with the stack's passphrase alone, which is
to be kept elsewhere.

The environment says where object storage is: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
"""

import argparse
import gzip
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from restore import storage
from restore.errors import RestoreError

_SECRET = ("4dabf18193072939515e22adb298388d", "1b47061264138c4ac30d75fd1eb44270")
"""The key and the value by which Pulumi marks a secret."""

_KUBERNETES = "pulumi:providers:kubernetes::"
"""A part of the name of every provider that leads into a cluster."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; what goes wrong is one message on standard error."""
    parser = argparse.ArgumentParser(prog="python -m restore.state", description=__doc__)
    parser.add_argument("action", choices=("keep", "fetch"))
    parser.add_argument("--stack", required=True, help="the stack whose Pulumi.STACK.yaml names the buckets")
    parser.add_argument("--cluster-lost", action="store_true", help="fetch: leave the cluster's objects out")
    options = parser.parse_args(arguments)
    try:
        bucket = storage.buckets(options.stack)["backupsBucket"]
        if options.action == "keep":
            sys.stderr.write(f"Kept a copy of the state: {_keep(bucket, options.stack, sys.stdin.read())}\n")
        else:
            found = _fetch(bucket, options.stack)
            sys.stdout.write(_without_objects(found) if options.cluster_lost else found)
    except (RestoreError, ClientError, BotoCoreError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _keep(bucket: str, stack: str, exported: str) -> str:
    try:
        found = json.loads(exported)
        deployment = found["deployment"]
    except (ValueError, KeyError, TypeError):
        raise RestoreError(
            "standard input is no state, so no copy was kept; give it what `pulumi stack export` writes."
        ) from None
    if _has_secret_in_clear(deployment):
        raise RestoreError(
            "the state has secrets in clear, so no copy was kept; export it without --show-secrets."
        )
    key = f"{_folder(stack)}{datetime.now(UTC):%Y-%m-%dT%H%M%S.%fZ}.json.gz"
    try:
        storage.client().put_object(Bucket=bucket, Key=key, Body=gzip.compress(exported.encode()))
    except (ClientError, BotoCoreError) as error:
        raise RestoreError(
            f"{bucket} takes no copy of the state ({error}), so the last one is older than the state; give "
            "it room or rights, and run this again."
        ) from None
    return f"{bucket}/{key}"


def _fetch(bucket: str, stack: str) -> str:
    client = storage.client()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=_folder(stack))
    # Their names are times.
    last = max((item["Key"] for page in pages for item in page.get("Contents", [])), default=None)
    if last is None:
        raise RestoreError(f"{bucket}/{_folder(stack)} holds no copy of the state.")
    sys.stderr.write(f"The last copy of the state: {bucket}/{last}\n")
    return gzip.decompress(client.get_object(Bucket=bucket, Key=last)["Body"].read()).decode()


def _without_objects(exported: str) -> str:
    """Leave out the cluster's objects, and that others depend on them."""
    found = json.loads(exported)
    resources = found["deployment"].get("resources", [])
    lost = {each["urn"] for each in resources if _KUBERNETES in each.get("provider", "")}
    kept = [each for each in resources if each["urn"] not in lost]
    for each in kept:
        needed = each.get("propertyDependencies") or {}
        each["propertyDependencies"] = {
            name: [urn for urn in urns or [] if urn not in lost] for name, urns in needed.items()
        }
        each["dependencies"] = [urn for urn in each.get("dependencies") or [] if urn not in lost]
        if each.get("deletedWith") in lost:
            del each["deletedWith"]
    found["deployment"]["resources"] = kept
    return json.dumps(found)


def _folder(stack: str) -> str:
    return f"state/{stack}/"


def _has_secret_in_clear(value: Any) -> bool:
    if isinstance(value, dict):
        mark, is_secret = _SECRET
        if value.get(mark) == is_secret and "plaintext" in value:
            return True
        return any(map(_has_secret_in_clear, value.values()))
    return isinstance(value, list) and any(map(_has_secret_in_clear, value))


if __name__ == "__main__":
    sys.exit(main())
