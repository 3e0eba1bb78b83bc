"""Object storage: the buckets of a stack, and the way in."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import yaml
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from infra.settings import NAMESPACE
from restore.errors import RestoreError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_ROOT = Path(__file__).parents[1]


def buckets(stack: str) -> Mapping[str, str]:
    """Return the names of the buckets as the stack's file has them. Raises RestoreError."""
    path = _ROOT / f"Pulumi.{stack}.yaml"
    try:
        found: Mapping[str, str] = yaml.safe_load(path.read_text(encoding="utf-8"))["config"][
            f"{NAMESPACE}:objectStorage"
        ]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise RestoreError(f"{path.name} names no buckets ({error}), so nothing was looked for.") from None
    return found


def client() -> "S3Client":
    """Return a client that enters with the environment's key. Raises RestoreError."""
    try:
        return boto3.client(
            "s3",
            config=Config(
                s3={"addressing_style": "path"},
                # SOS knows no trailing checksums.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                retries={"mode": "standard", "max_attempts": 5},
            ),
        )
    except (BotoCoreError, ValueError) as error:
        raise RestoreError(f"object storage cannot be entered: {error}.") from None
