"""The size of tenants' objects, older versions included: all of it is paid for."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

log = logging.getLogger(__name__)

_AGAIN_SECONDS = 3600
"""A prefix is listed once an hour: a thousand versions are one request."""
_LOOK_SECONDS = 30
_AWAY = (BotoCoreError, ClientError)


class Objects:
    """The bytes below tenants' prefixes, as last measured."""

    def __init__(self, s3: "S3Client", bucket: str, tenants: Callable[[], Collection[str]]) -> None:
        """Measure below the prefixes of `tenants` in `bucket`."""
        self._s3 = s3
        self._bucket = bucket
        self._tenants = tenants
        self._measured: dict[str, int] = {}
        self._due: dict[str, float] = {}

    def bytes(self, tenant: str) -> int | None:
        """Return what the tenant has; None: that is not known yet."""
        return self._measured.get(tenant)

    async def follow(self) -> None:
        """Measure each prefix once an hour, one after the other, until cancelled."""
        while True:
            known = set(self._tenants())
            for gone in self._due.keys() - known:
                self._due.pop(gone)
                self._measured.pop(gone, None)
            for tenant in sorted(known):
                if self._due.get(tenant, 0) <= time.monotonic():
                    await self._measure(tenant)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _measure(self, tenant: str) -> None:
        self._due[tenant] = time.monotonic() + _AGAIN_SECONDS
        try:
            self._measured[tenant] = await asyncio.to_thread(self._size, f"tenant_{tenant}/")
        except _AWAY as error:
            log.warning("%s: its objects are not measured: %s", tenant, error, extra={"tenant": tenant})

    def _size(self, prefix: str) -> int:
        pages = self._s3.get_paginator("list_object_versions").paginate(Bucket=self._bucket, Prefix=prefix)
        return sum(version["Size"] for page in pages for version in page.get("Versions", []))
