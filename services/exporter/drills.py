"""The outcome of the last drill, as its record in the cluster tells it."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated

from prometheus_client.core import Metric
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.exporter.figures import gauge
from services.kube import Api, Object, Watched

_LABEL = "agent-platform/drill"
_FILE = "drill.json"
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_GAUGES = (
    ("agent_platform_drill_lost_seconds", "The time whose writes did not come back.", "lost_seconds"),
    ("agent_platform_drill_recovery_seconds", "The time until all was back.", "seconds"),
)


class _Disaster(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    disaster: str = Field(max_length=60)
    lost_seconds: _Seconds
    seconds: _Seconds
    differences: list[str]


class _Drill(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    at: datetime
    completed: bool
    disasters: list[_Disaster] = Field(max_length=20)


class Drills:
    """The record of the last drill, kept in step by a watch."""

    def __init__(self, api: Api, namespace: str) -> None:
        """Follow the record in `namespace`."""
        path = f"/api/v1/namespaces/{namespace}/configmaps"
        self._watched = Watched(api, path, _read, selector=_LABEL)

    async def follow(self) -> None:
        """Stay in step until cancelled."""
        await self._watched.follow()

    def figures(self) -> Iterable[Metric]:
        """Return what became of the last drill; nothing before the first."""
        drills = [drill for _, drill in self._watched.items() if drill]
        yield gauge(
            "agent_platform_drill_timestamp_seconds",
            "When the last drill ended, in seconds since 1970.",
            [],
            (((), drill.at.timestamp()) for drill in drills),
        )
        yield gauge(
            "agent_platform_drill_success",
            "1 if the last drill came to its end and all was as before.",
            [],
            (
                ((), drill.completed and not any(one.differences for one in drill.disasters))
                for drill in drills
            ),
        )
        for name, text, field in _GAUGES:
            yield gauge(
                name,
                text,
                ["disaster"],
                (((one.disaster,), getattr(one, field)) for drill in drills for one in drill.disasters),
            )


def _read(record: Object) -> _Drill | None:
    text = (record.get("data") or {}).get(_FILE)
    if text is None:
        return None
    try:
        return _Drill.model_validate_json(text)
    except ValidationError as error:
        raise TypeError(str(error)) from None  # `Watched` tells it
