"""The way into object storage: an S3 client with the key of the service's own."""

from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def client(endpoint: str, region: str, *, attempts: int, connections: int = 10) -> "S3Client":
    """Return a client; the file that `AWS_SHARED_CREDENTIALS_FILE` names has the key.

    A request is tried `attempts` times; `connections` are open at a time.
    """
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=region,
        config=Config(
            s3={"addressing_style": "path"},
            connect_timeout=10,
            read_timeout=60,
            max_pool_connections=connections,
            retries={"mode": "standard", "max_attempts": attempts},
        ),
    )
