"""The certificates that the gateway shows: one to everybody, and one to agents, which may be the same.

A public authority vouches for names on the internet only. To agents, which call it by its name in the
cluster, the gateway then shows a certificate of the platform's own authority.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pulumi
import pulumi_kubernetes as k8s
from pydantic import SecretStr

from infra.platform.certificates import Certificates
from infra.platform.service_pods import Source, from_secret
from infra.settings import GivenCertificate, Settings

_PUBLIC = "gateway-tls"
_AGENTS = "gateway-agents-tls"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The certificates as files of Envoy's."""

    folders: Mapping[str, str]
    """The folder of each, by whom it is shown to: `public` and `agents`."""
    files: Mapping[str, Source]
    """Volumes, by the folder in which Envoy looks for them."""
    authority: pulumi.Output[str] | None
    """Who vouches for the one that agents are shown (PEM); None: an authority that everybody trusts."""
    declared: list[pulumi.Resource]


def gateway_certificates(
    prefix: str,
    namespace: str,
    settings: Settings,
    certificates: Callable[[], Certificates],
    labels: Mapping[str, str],
    opts: pulumi.ResourceOptions,
) -> Shown:
    """Declare the Secrets with them: given, or issued by `certificates`, made at the first need."""
    chosen = settings.gateway.certificate.choice
    name_inside = urlsplit(settings.gateway.agents_address).hostname or ""
    if not isinstance(chosen, GivenCertificate):
        issued = certificates().server("gateway", namespace, [f"*.{settings.domain}", name_inside], opts)
        return Shown(
            **_mounted(_PUBLIC, _PUBLIC),
            authority=certificates().authority,
            declared=[issued],
        )
    chain, key = _revealed(settings.gateway_certificate), _revealed(settings.gateway_key)
    given = k8s.core.v1.Secret(
        f"{prefix}-tls",
        metadata={"name": _PUBLIC, "namespace": namespace, "labels": labels},
        type="kubernetes.io/tls",
        string_data={"tls.crt": pulumi.Output.secret(chain), "tls.key": pulumi.Output.secret(key)},
        opts=opts,
    )
    if chosen.authority:
        return Shown(
            **_mounted(_PUBLIC, _PUBLIC),
            authority=pulumi.Output.from_input(chosen.authority),
            declared=[given],
        )
    issued = certificates().server("gateway-agents", namespace, [name_inside], opts)
    return Shown(
        **_mounted(_PUBLIC, _AGENTS),
        authority=certificates().authority,
        declared=[given, issued],
    )


def _mounted(public: str, agents: str) -> dict[str, Any]:
    """The folders and the volumes for those two Secrets."""
    folders = {name: f"/etc/{secret}" for name, secret in (("public", public), ("agents", agents))}
    return {
        "folders": folders,
        "files": {folders["public"]: from_secret(public), folders["agents"]: from_secret(agents)},
    }


def _revealed(value: SecretStr | None) -> str:
    """A secret of the configuration; validation has seen to it that a given certificate has both."""
    return value.get_secret_value() if value else ""
