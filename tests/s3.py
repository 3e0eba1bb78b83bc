"""The owner's S3 client, for tests that look into the embedded object storage."""

from typing import Any

import boto3
from botocore.config import Config

from local.servers import object_storage


def owner() -> Any:
    """Return a client with the key that owns every bucket."""
    where = object_storage.environment()
    return boto3.client(
        "s3",
        endpoint_url=where["AWS_ENDPOINT_URL"],
        region_name=where["AWS_REGION"],
        aws_access_key_id=where["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=where["AWS_SECRET_ACCESS_KEY"],
        config=Config(s3={"addressing_style": "path"}),
    )
