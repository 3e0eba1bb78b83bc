"""The receipt of a removal: every place that was looked at, how and when, and what remains by intention.

It lies in the logs bucket under `receipts/ID.json` for good: an id that has one is never given again.
"""

import functools
import json
from collections.abc import Mapping
from typing import Any

from botocore.exceptions import ClientError

from infra.cluster.object_storage import error_code, s3_client

# Each preview asks it for every tenant that is new, and a client takes longer to make than an answer.
_client = functools.cache(s3_client)


def key(tenant: str) -> str:
    """Where the receipt of `tenant` lies in the logs bucket."""
    return f"receipts/{tenant}.json"


def exists(tenant: str, storage: Mapping[str, Any]) -> bool:
    """Whether a tenant of that id was removed before; `storage` says where the logs bucket is."""
    try:
        _client(storage["endpoint"], storage["region"]).head_object(Bucket=storage["logs"], Key=key(tenant))
    except ClientError as error:
        if error_code(error) in ("404", "NoSuchKey", "NoSuchBucket"):
            return False
        raise
    return True


def write(tenant: str, storage: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    """Leave the receipt."""
    _client(storage["endpoint"], storage["region"]).put_object(
        Bucket=storage["logs"],
        Key=key(tenant),
        Body=json.dumps(content, indent=2, ensure_ascii=False).encode(),
        ContentType="application/json",
    )
