"""Quotas: how often a path may be asked for."""

from local.providers.bridged import Property, table
from local.providers.provider import Call
from local.providers.values import Properties
from local.providers.vault.server import VaultResource, told, written

_WRITTEN = ("path", "rate", "interval", "blockInterval", "role")


class RateLimit(VaultResource):
    """`vault:index/quotaRateLimit:QuotaRateLimit`; its id is its name."""

    properties = table(
        name=Property(replaces=True),
        path=Property(),
        rate=Property(),
        interval=Property(computed=True),
        blockInterval=Property(),
        role=Property(),
    )

    def make(self, call: Call, inputs: Properties) -> str:  # noqa: D102
        name: str = inputs["name"]
        self.change(call, name, {}, inputs)
        return name

    def find(self, id: str, known: Properties) -> Properties | None:  # noqa: D102
        del known
        data = self.vault.read(_path(id), f'error reading Resource Rate Limit Quota "{id}"')
        return None if data is None else {"name": id, **told(data, _WRITTEN)}

    def change(self, call: Call, id: str, old: Properties, new: Properties) -> None:  # noqa: D102
        del call, old
        failing = f'error writing Resource Rate Limit Quota "{id}"'
        self.vault.write(_path(id), {"path": "", **written(new, _WRITTEN)}, failing)

    def drop(self, id: str, known: Properties) -> None:  # noqa: D102
        del known
        self.vault.delete(_path(id), f'error deleting Resource Rate Limit Quota "{id}"')


def _path(name: str) -> str:
    return f"sys/quotas/rate-limit/{name}"
