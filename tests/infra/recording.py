"""Runs the program's components against Pulumi's mocks and records what they register."""

import asyncio
import datetime
import ipaddress
import json
import unittest.mock
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pulumi
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from pulumi.runtime import mocks
from pulumi.runtime.proto import resource_pb2
from pulumi.runtime.stack import run_pulumi_func

ROOT = Path(__file__).parents[2]

_OUTPUTS: dict[str, dict[str, Any]] = {
    "exoscale:index/sksKubeconfig:SksKubeconfig": {
        "kubeconfig": "clusters: [{cluster: {server: https://sks.test, certificate-authority-data: Y2E=}}]"
    },
    "exoscale:index/iamApiKey:IamApiKey": {"key": "EXOkey", "secret": "EXOsecret"},
    "kubernetes:core/v1:Secret": {"data": {"token": "and0", "ca.crt": "Y2E="}},
    "kubernetes:core/v1:Service": {
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}},
        "spec": {"ports": [{"nodePort": 31820, "port": 51820}]},
    },
    "pulumi-python:dynamic/agent-platform:Password": {"value": "drawn"},
    "pulumi-python:dynamic/agent-platform:WireGuardKeyPair": {
        "private": "drawn-private",
        "public": "drawn-public",
    },
    "pulumi-python:dynamic/agent-platform:AccessKey": {
        "private": "drawn-signing-key",
        "public": {
            "kty": "OKP",
            "crv": "Ed25519",
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
            "kid": "drawn-kid",
        },
    },
}
"""What the cloud would answer, by resource type."""


@dataclass(frozen=True)
class Registered:
    """A resource as the program registered it."""

    type: str
    name: str
    inputs: dict[str, Any]
    parent: str
    protect: bool
    retain_on_delete: bool
    ignore_changes: list[str]
    depends_on: list[str]
    """Names."""


class Output(NamedTuple):
    """A stack's output."""

    value: Any
    secret: bool


Outputs = Mapping[str, Output]


@dataclass(frozen=True)
class _Answers(pulumi.runtime.Mocks):
    """Answers as the providers would, and as the engine tells the outputs of any other stack."""

    base: Outputs

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        if args.typ == "pulumi:pulumi:StackReference":
            return args.resource_id, {
                **args.inputs,
                "outputs": {name: output.value for name, output in self.base.items()},
                "secretOutputNames": [name for name, output in self.base.items() if output.secret],
            }
        outputs = {**args.inputs, **_OUTPUTS.get(args.typ, {})}
        if args.typ == "exoscale:index/sksNodepool:SksNodepool":
            outputs["instancePoolId"] = f"{args.name}-instance-pool"
        return f"{args.name}-id", outputs

    def call(self, args: pulumi.runtime.MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        raise AssertionError(f"the program calls {args.token}, which a preview without network cannot answer")


@dataclass
class Recorder(mocks.MockMonitor):
    """Keeps every registration, as the engine would see it."""

    answers: pulumi.runtime.Mocks
    registered: dict[str, Registered] = field(default_factory=dict)
    outputs: dict[str, Output] = field(default_factory=dict)
    """What the program, run as a whole, exports."""

    def __post_init__(self) -> None:
        super().__init__(self.answers)

    def RegisterResource(self, request: Any) -> resource_pb2.RegisterResourceResponse:  # noqa: N802
        if request.type != "pulumi:pulumi:Stack":
            assert request.name not in self.registered, f"{request.name} is registered twice"
            self.registered[request.name] = Registered(
                type=request.type,
                name=request.name,
                inputs=pulumi.runtime.rpc.deserialize_properties(request.object, keep_unknowns=True),
                parent=request.parent.split("::")[-1],
                protect=request.protect,
                retain_on_delete=request.retainOnDelete,
                ignore_changes=list(request.ignoreChanges),
                depends_on=sorted(urn.split("::")[-1] for urn in request.dependencies),
            )
        answer: resource_pb2.RegisterResourceResponse = super().RegisterResource(  # type: ignore[no-untyped-call]
            request
        )
        return answer

    def of_type(self, type_: str) -> list[Registered]:
        return [resource for resource in self.registered.values() if resource.type == type_]

    def __getitem__(self, name: str) -> Registered:
        return self.registered[name]


def record(program: Callable[[], object], *, preview: bool = False, base: Outputs | None = None) -> Recorder:
    """Run `program` and return what it registered; whatever it raises is raised here.

    `base` is what a stack exports that the program refers to.
    """
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    answers = _Answers(base or {})
    recorder = Recorder(answers)
    mocks.set_mocks(answers, project="agent-platform", stack="test", preview=preview, monitor=recorder)

    async def run() -> None:
        mains: list[Callable[[], Awaitable[Mapping[str, Any]]]] = []
        # The mocks' own stack takes no `main`, as the language host's does: it is awaited here.
        with unittest.mock.patch("pulumi.run", mains.append):
            program()
        for main in mains:
            for name, value in (await main()).items():
                output = pulumi.Output.from_input(value)
                recorder.outputs[name] = Output(await output.future(), await output.is_secret())

    loop.run_until_complete(run_pulumi_func(run))
    return recorder


def configure(values: Mapping[str, Any], secrets: Mapping[str, str] | None = None) -> None:
    """Set the stack's configuration as the engine hands it over: mappings and lists as JSON."""
    everything = {**values, **(secrets or {})}
    pulumi.runtime.set_all_config(
        {
            f"agent-platform:{key}": value if isinstance(value, str) else json.dumps(value)
            for key, value in everything.items()
        },
        [f"agent-platform:{key}" for key in secrets or {}],
    )


def stack(name: str) -> dict[str, Any]:
    """The configuration in `Pulumi.NAME.yaml`, without the namespace."""
    document = yaml.safe_load((ROOT / f"Pulumi.{name}.yaml").read_text())
    return {key.removeprefix("agent-platform:"): value for key, value in document["config"].items()}


def certificate(*names: str, days: int = 30) -> tuple[str, str]:
    """A certificate for those names and addresses, vouched for by nobody, and its key (PEM)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
    now = datetime.datetime.now(datetime.UTC)
    called = [
        x509.IPAddress(ipaddress.ip_address(name)) if name[0].isdigit() else x509.DNSName(name)
        for name in names
    ]
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=60))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(called), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return signed.public_bytes(Encoding.PEM).decode(), private.decode()


CERTIFICATE, _KEY = certificate("*.agents.localhost", "127.0.0.1")
SECRETS = {
    "databaseAdminPassword": "db-secret",
    "redisPassword": "redis-secret",
    "vaultToken": "vault-secret",
    "gatewayCertificate": CERTIFICATE,
    "gatewayKey": _KEY,
}
"""The secrets of a stack in which everything is given."""


def local_stack() -> dict[str, Any]:
    """`Pulumi.local.yaml` with what `make up` adds."""
    values = stack("local")
    values["database"]["given"]["port"] = 5432
    values["redis"]["given"]["port"] = 6379
    values["vault"]["given"]["address"] = "http://127.0.0.1:8200"
    values["objectStorage"]["endpoint"] = "http://127.0.0.1:8333"
    values["gateway"]["agentsAddress"] = "https://127.0.0.1:8444"
    values["gateway"]["certificate"]["given"]["authority"] = CERTIFICATE
    return values
