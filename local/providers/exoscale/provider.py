"""The stand-in itself: its configuration and its types."""

import importlib.metadata
import os

from local.providers.exoscale.api import DEFAULT_URL, Zones
from local.providers.exoscale.iam import IamApiKey, IamRole
from local.providers.exoscale.kind import SCHEMA
from local.providers.exoscale.network import (
    AntiAffinityGroup,
    PrivateNetwork,
    SecurityGroup,
    SecurityGroupRule,
)
from local.providers.exoscale.sks import SksCluster, SksKubeconfig, SksNodepool
from local.providers.provider import Call, Failure, Provider, ProviderError, Resource, by_token
from local.providers.values import Properties

_KINDS = (
    *(AntiAffinityGroup, PrivateNetwork, SecurityGroup, SecurityGroupRule),
    *(SksCluster, SksNodepool, SksKubeconfig),
    *(IamRole, IamApiKey),
)
_TIMEOUT = 3600.0


class ExoscaleProvider(Provider):
    """Finds the API by `EXOSCALE_API_ENDPOINT`, as the official plugin does for most types."""

    name = "exoscale"
    version = importlib.metadata.version("pulumiverse-exoscale")

    def __init__(self) -> None:
        """Unconfigured."""
        self._zones: Zones | None = None
        self._types: dict[str, Resource] = {kind.of_type: kind(self._configured) for kind in _KINDS}

    def check_config(self, call: Call, config: Properties) -> tuple[Properties, list[Failure]]:  # noqa: D102
        return SCHEMA.provider.check(call.name, config)

    def configure(self, config: Properties) -> None:  # noqa: D102
        key = config.get("key") or os.environ.get("EXOSCALE_API_KEY")
        secret = config.get("secret") or os.environ.get("EXOSCALE_API_SECRET")
        if not key or not secret:
            raise ProviderError(
                "exoscale: no API key and secret, so nothing can be managed; set EXOSCALE_API_KEY and "
                "EXOSCALE_API_SECRET."
            )
        if config.get("environment", "api") != "api":
            raise ProviderError("exoscale: this stand-in knows the environment 'api' only; leave it out.")
        url = os.environ.get("EXOSCALE_API_ENDPOINT") or DEFAULT_URL
        self._zones = Zones(key, secret, url, float(config.get("timeout") or _TIMEOUT))

    def resource(self, token: str) -> Resource:  # noqa: D102
        return by_token(self.name, self._types, token)

    def _configured(self) -> Zones:
        if self._zones is None:
            raise ProviderError("exoscale: asked before it was configured")
        return self._zones
