"""What Envoy logs to the gateway: which requests it has in flight, and how each has ended.

The protocol is Envoy's access log service:
<https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/service/accesslog/v3/als.proto>.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
from envoy.data.accesslog.v3 import accesslog_pb2  # type: ignore[import-untyped]
from envoy.service.accesslog.v3 import als_pb2, als_pb2_grpc  # type: ignore[import-untyped]

from services.activity.store import Kind
from services.gateway import hosts, metrics
from services.gateway.in_flight import Asked, InFlight
from services.gateway.routes import Routes
from services.gateway.wake import Wakes

_GOES_ON = accesslog_pb2.DownstreamPeriodic
_ENDS = accesslog_pb2.DownstreamEnd


class AccessLog(als_pb2_grpc.AccessLogServiceServicer):  # type: ignore[misc]
    """Keeps `InFlight` in step with Envoy, and counts for each tenant."""

    def __init__(self, in_flight: InFlight, wakes: Wakes, domain: str, routes: Routes) -> None:
        """Tell `wakes` of agents that take no connection; hosts under `domain` are tenants' by `routes`."""
        self._in_flight = in_flight
        self._wakes = wakes
        self._domain = domain
        self._routes = routes

    async def StreamAccessLogs(self, messages: AsyncIterator[Any], _: object) -> Any:  # noqa: N802 - gRPC's name
        """Read what one worker of Envoy's says until it ends."""
        async for message in messages:
            for entry in message.http_logs.log_entry:
                self._note(entry)
        return als_pb2.StreamAccessLogsResponse()

    def _note(self, entry: Any) -> None:
        common, request = entry.common_properties, entry.request
        if common.access_log_type == _ENDS:
            asked = self._in_flight.end(request.request_id)
            tenant = asked.tenant if asked else self._named(request.authority)
            metrics.ended(tenant, entry, let_in=asked is not None)
            if asked and common.response_flags.upstream_connection_failure:
                self._wakes.invalidate(asked.tenant)
        elif common.access_log_type == _GOES_ON:
            told = request.request_headers
            # Without these the authoriser has not let it through yet, or has refused it.
            if (tenant := told.get("x-tenant")) and (subject := told.get("x-subject")):
                kind: Kind = "stream" if "upgrade" in told else "request"
                self._in_flight.hear(request.request_id, Asked(tenant, subject, kind))

    def _named(self, authority: str) -> str:
        """Return the tenant whose host a request named that was not let in; `-` for anything else."""
        label = hosts.label(authority, self._domain)
        return label if label and self._routes.find(label) else "-"


def server(access_log: AccessLog, socket: Path) -> Any:
    """Return the gRPC server at a Unix socket; it is still to be started."""
    # What Envoy sends at a time is bounded by its own buffer.
    found = grpc.aio.server()
    als_pb2_grpc.add_AccessLogServiceServicer_to_server(access_log, found)
    found.add_insecure_port(f"unix:{socket}")
    return found
