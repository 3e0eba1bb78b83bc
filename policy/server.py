# ruff: noqa: N802 — the protocol names its methods
"""Serves the pack to the engine: its `Analyzer` protocol, over gRPC on loopback.

Pulumi's own package for policies in Python reads every resource anew for each rule, lets pass what nobody
knows in the configuration, and stops a rule at its first unknown field; hence this one
(docs/decisions/0041).
"""

import contextlib
import sys
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import yaml
from google.protobuf import empty_pb2, json_format  # type: ignore[import-untyped]
from pulumi.runtime.proto import analyzer_pb2, analyzer_pb2_grpc, plugin_pb2

from policy.configuration import ALL, Configured, check_entry
from policy.families import all_rules
from policy.inputs import decode
from policy.judge import Finding, Judge
from policy.rules import ALLOWED, Level, Rule, Severity
from policy.subjects import Resource

NAME = "agent-platform"
VERSION: str = yaml.safe_load((Path(__file__).parent / "PulumiPolicy.yaml").read_text(encoding="utf-8"))[
    "version"
]

_MESSAGE_LIMIT = 400 * 1024 * 1024
"""Bytes: the engine's own limit."""

_LEVELS = {
    Level.MANDATORY: analyzer_pb2.MANDATORY,
    Level.ADVISORY: analyzer_pb2.ADVISORY,
    Level.DISABLED: analyzer_pb2.DISABLED,
}

_SEVERITIES = {
    Severity.CRITICAL: analyzer_pb2.POLICY_SEVERITY_CRITICAL,
    Severity.HIGH: analyzer_pb2.POLICY_SEVERITY_HIGH,
    Severity.MEDIUM: analyzer_pb2.POLICY_SEVERITY_MEDIUM,
}


def serve() -> None:
    """Serve until the engine ends: prints the port, as the engine expects of a plugin."""
    server = grpc.server(
        # One at a time: resources come in order, and parents before children.
        futures.ThreadPoolExecutor(max_workers=1),
        options=[("grpc.max_receive_message_length", _MESSAGE_LIMIT)],
    )
    analyzer_pb2_grpc.add_AnalyzerServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    with contextlib.suppress(KeyboardInterrupt):  # how the engine ends it
        server.wait_for_termination()


class Servicer(analyzer_pb2_grpc.AnalyzerServicer):
    """Answers the engine; gRPC and protobuf stay in this file."""

    def __init__(self) -> None:
        """Start with every rule as written."""
        self._rules = all_rules()
        self._preview = True
        self._judge = Judge({name: _as_written(rule) for name, rule in self._rules.items()}, preview=True)

    def GetPluginInfo(self, _request: Any, _context: Any) -> plugin_pb2.PluginInfo:
        """The pack's version."""
        return plugin_pb2.PluginInfo(version=VERSION)

    def GetAnalyzerInfo(self, _request: Any, _context: Any) -> analyzer_pb2.AnalyzerInfo:
        """The rules, and what can be configured of each."""
        return analyzer_pb2.AnalyzerInfo(
            name=NAME,
            version=VERSION,
            supportsConfig=True,
            policies=[_described(rule) for rule in self._rules.values()],
        )

    def ConfigureStack(
        self, request: analyzer_pb2.AnalyzerStackConfigureRequest, _context: Any
    ) -> analyzer_pb2.AnalyzerStackConfigureResponse:
        """Learn whether this is a preview."""
        self._preview = request.dry_run
        return analyzer_pb2.AnalyzerStackConfigureResponse()

    def Configure(
        self, request: analyzer_pb2.ConfigureAnalyzerRequest, context: grpc.ServicerContext
    ) -> empty_pb2.Empty:
        """Take the stack's configuration, defaults filled in; what nobody knows in it stops everything."""
        given = {
            name: json_format.MessageToDict(entry.properties) for name, entry in request.policyConfig.items()
        }
        mistakes = [
            mistake for name, values in given.items() for mistake in check_entry(name, values, self._rules)
        ]
        if mistakes:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "; ".join(mistakes))
        levels = {number: level for level, number in _LEVELS.items()}
        configured = {}
        for name, entry in request.policyConfig.items():
            if name != ALL:
                # `remediate` is for packs that mend; this one refuses.
                level = levels.get(entry.enforcementLevel, Level.MANDATORY)
                configured[name] = Configured(self._rules[name], level, given[name])
        self._judge = Judge(configured, preview=self._preview)
        return empty_pb2.Empty()

    def Remediate(self, _request: Any, _context: Any) -> analyzer_pb2.RemediateResponse:
        """Mend nothing: a pull request does."""
        return analyzer_pb2.RemediateResponse()

    def Analyze(self, request: analyzer_pb2.AnalyzeRequest, _context: Any) -> analyzer_pb2.AnalyzeResponse:
        """Judge a resource before anything is done to it."""
        inputs, secrets = decode(request.properties)
        parent = request.options.parent
        resource = Resource(
            urn=request.urn,
            type=request.type,
            name=request.name,
            inputs=inputs,
            secrets=secrets,
            parent=parent,
            tenant=self._judge.tenant_below(parent),
            protect=request.options.protect,
            secret_outputs=frozenset(request.options.additionalSecretOutputs),
        )
        return _response(self._judge.resource(resource))

    def AnalyzeStack(
        self, request: analyzer_pb2.AnalyzeStackRequest, _context: Any
    ) -> analyzer_pb2.AnalyzeResponse:
        """Judge all resources together, by their inputs: their outputs have the shape that providers like."""
        dependencies = {resource.urn: tuple(resource.dependencies) for resource in request.resources}
        return _response(self._judge.stack(dependencies))


def _as_written(rule: Rule) -> Configured:
    settings = {**ALLOWED, **rule.settings}
    return Configured(rule, rule.level, {name: schema["default"] for name, schema in settings.items()})


def _described(rule: Rule) -> analyzer_pb2.PolicyInfo:
    described = analyzer_pb2.PolicyInfo(
        name=rule.id,
        description=f"It must not ship: {rule.reason}",
        enforcementLevel=_LEVELS[rule.level],
        severity=_SEVERITIES[rule.severity],
        policy_type=analyzer_pb2.POLICY_TYPE_STACK if rule.across else analyzer_pb2.POLICY_TYPE_RESOURCE,
        remediation_steps=rule.remedy,
        url=rule.source if rule.source.startswith("https://") else "",
        tags=[rule.family],
    )
    described.configSchema.properties.update(
        {name: dict(schema) for name, schema in {**ALLOWED, **rule.settings}.items()}
    )
    return described


def _response(findings: Any) -> analyzer_pb2.AnalyzeResponse:
    return analyzer_pb2.AnalyzeResponse(diagnostics=[_diagnostic(finding) for finding in findings])


def _diagnostic(finding: Finding) -> analyzer_pb2.AnalyzeDiagnostic:
    return analyzer_pb2.AnalyzeDiagnostic(
        policyName=finding.rule.id,
        policyPackName=NAME,
        policyPackVersion=VERSION,
        message=finding.message,
        urn=finding.urn,
        enforcementLevel=_LEVELS[finding.level],
        severity=_SEVERITIES[finding.rule.severity],
    )
