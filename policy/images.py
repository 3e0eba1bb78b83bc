"""Images: what runs is what was reviewed, and comes from where we trust.

Of a Helm chart, its version, its repository and the images in its values can be judged; the images that it
names by itself cannot.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from policy.inputs import searched
from policy.pods import containers
from policy.rules import Selection, Severity, resources, rule
from policy.subjects import Resource

_REFERENCE = re.compile(
    r"^(?P<name>[^@]+?)(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]*))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?$"
)
"""The shape of <https://github.com/distribution/reference>, as far as the rules need it."""

_MOVING = frozenset(("latest", "main", "master", "edge", "nightly", "dev", "stable"))
_EXACT = re.compile(r"^v?\d+\.\d+\.\d+([-+][0-9A-Za-z.-]+)?$")

_RELEASES = ("kubernetes:helm.sh/v3:Release", "kubernetes:helm.sh/v3:Chart", "kubernetes:helm.sh/v4:Chart")
_MACHINES = (
    "kubernetes:kubevirt.io/v1:VirtualMachine",
    "kubernetes:kubevirt.io/v1:VirtualMachineInstance",
    "kubernetes:pool.kubevirt.io/v1alpha1:VirtualMachinePool",
    "kubernetes:pool.kubevirt.io/v1beta1:VirtualMachinePool",
)
_DATABASE = "kubernetes:postgresql.cnpg.io/v1:Cluster"


@dataclass(frozen=True)
class Image:
    """An image, and what runs it."""

    of: str
    """Such as "container agent"."""
    reference: str

    @property
    def _parts(self) -> Mapping[str, str | None]:
        matched = _REFERENCE.match(self.reference)
        return matched.groupdict() if matched else {}

    @property
    def name(self) -> str:
        """With its registry; Docker's own, where none is written."""
        name = self._parts.get("name") or self.reference
        registry, _, rest = name.partition("/")
        if rest and ("." in registry or ":" in registry or registry == "localhost"):
            return name
        return f"docker.io/{name}" if rest else f"docker.io/library/{name}"

    @property
    def tag(self) -> str | None:
        """The name that its registry may give to another image tomorrow."""
        return self._parts.get("tag")

    @property
    def digest(self) -> str | None:
        """What the image is, for ever."""
        return self._parts.get("digest")


_NO_IMAGE = "podAnnotations"
"""Values of a chart in which no image can be; a hash of what is yet to be drawn may be."""


def _images(resource: Resource) -> Iterator[Image]:
    if containers.includes(resource.type):
        for container in containers.parts(resource):
            yield Image(f"container {container.name}", container.spec.get("image") or "")
    elif resource.type in _MACHINES:
        yield from _disks(resource.inputs["spec"])
    elif resource.type == _DATABASE:
        if "imageName" in resource.inputs["spec"]:
            yield Image("PostgreSQL", resource.inputs["spec"]["imageName"])
    else:
        values = resource.inputs.get("values") or {}
        yield from _in_values(values, "values")
        searched([value for key, value in dict.items(values) if key != _NO_IMAGE])


def _disks(spec: Mapping[str, Any]) -> Iterator[Image]:
    """The system disks and the kernel of a machine, of the template of one, or of a pool of them."""
    if "virtualMachineTemplate" in spec:
        spec = spec["virtualMachineTemplate"]["spec"]
    if "template" in spec:
        spec = spec["template"]["spec"]
    for volume in spec.get("volumes") or ():
        if volume.get("containerDisk"):
            yield Image(f"disk {volume.get('name')}", volume["containerDisk"].get("image") or "")
    kernel = ((spec.get("domain") or {}).get("firmware") or {}).get("kernelBoot") or {}
    if kernel.get("container"):
        yield Image("kernel", kernel["container"].get("image") or "")


def _in_values(values: Any, path: str) -> Iterator[Image]:
    """A chart's values, as most charts write images: a text, or registry, repository, tag and digest."""
    if isinstance(values, list):
        for index, value in enumerate(list.__iter__(values)):
            yield from _in_values(value, f"{path}[{index}]")
    elif isinstance(values, dict):
        if isinstance(values.get("repository"), str):
            yield Image(path, _assembled(values))
            return
        for key, value in dict.items(values):
            if key in ("image", "imageName") and isinstance(value, str):
                yield Image(f"{path}.{key}", value)
            else:
                yield from _in_values(value, f"{path}.{key}")


def _assembled(values: Mapping[str, Any]) -> str:
    registry = values.get("registry")
    name = f"{registry}/{values['repository']}" if registry else str(values["repository"])
    tag, digest = values.get("tag"), values.get("digest")
    return f"{name}{f':{tag}' if tag else ''}{f'@{digest}' if digest else ''}"


images = Selection(
    lambda type_: containers.includes(type_) or type_ in (*_MACHINES, _DATABASE, *_RELEASES), _images
)
"""Each image that a container runs, a machine boots from, a database runs or a chart is given."""


@rule(
    id="images-by-digest",
    severity=Severity.HIGH,
    on=images,
    reason="its registry can put another image under the same tag, and what runs is not what was reviewed",
    remedy="write NAME@sha256:DIGEST (`crane digest NAME:TAG` prints it), or name it in this rule's `tagged`",
    source="https://kubernetes.io/docs/concepts/containers/images/#image-names",
    settings={
        "tagged": {
            "type": "object",
            "additionalProperties": {"type": "string", "minLength": 1},
            "default": {},
            "description": "images that may go by their tag, each with the reason why",
        }
    },
)
def by_digest(image: Image, values: Mapping[str, Any]) -> Iterator[str]:
    """Every image is named by its digest."""
    if not image.digest and image.reference not in values["tagged"]:
        yield f"{image.of} is {image.reference or 'no image at all'}, without a digest"


@rule(
    id="images-no-moving-tag",
    severity=Severity.HIGH,
    on=images,
    reason="each start may run another version, on each node another one",
    remedy="name a version, and its digest",
    source="https://kubernetes.io/docs/concepts/containers/images/#image-pull-policy",
)
def no_moving_tag(image: Image) -> Iterator[str]:
    """No image goes by a tag that is meant to move, nor by none."""
    if image.digest:
        return
    if image.tag is None:
        yield f"{image.of} is {image.reference}, which means `latest`"
    elif image.tag in _MOVING:
        yield f"{image.of} is {image.reference}, whose tag moves"


@rule(
    id="images-from-trusted",
    severity=Severity.HIGH,
    on=images,
    reason="whoever owns that registry runs code beside the tenants' data",
    remedy="mirror the image to a registry that is trusted, or add that one to this rule's `trusted`",
    source="https://kubernetes.io/docs/concepts/security/security-checklist/#images",
    settings={
        "trusted": {
            "type": "array",
            "items": {"type": "string", "pattern": "/$"},
            "default": [
                "quay.io/kubevirt/",
                "ghcr.io/cloudnative-pg/",
                "ghcr.io/open-telemetry/opentelemetry-collector-releases/",
            ],
            "description": "how the names of trusted images begin, each with a slash at its end",
        }
    },
)
def from_trusted(image: Image, values: Mapping[str, Any]) -> Iterator[str]:
    """Every image comes from a registry, and a part of it, that is trusted."""
    if not image.name.startswith(tuple(values["trusted"])):
        yield f"{image.of} comes from {image.name}"


@rule(
    id="images-charts-pinned",
    severity=Severity.MEDIUM,
    on=resources(*_RELEASES),
    reason="the next update installs whatever its repository then offers",
    remedy="write an exact version, and a repository (https) that is in this rule's `repositories`",
    source="https://helm.sh/docs/chart_best_practices/dependencies/",
    settings={
        "repositories": {
            "type": "array",
            "items": {"type": "string", "pattern": "^https://"},
            "default": [
                "https://charts.jetstack.io",
                "https://charts.longhorn.io",
                "https://cloudnative-pg.github.io/charts",
                "https://open-telemetry.github.io/opentelemetry-helm-charts",
                "https://openbao.github.io/openbao-helm",
                "https://prometheus-community.github.io/helm-charts",
                "https://valkey.io/valkey-helm/",
            ],
            "description": "the trusted chart repositories",
        }
    },
)
def charts_pinned(release: Resource, values: Mapping[str, Any]) -> Iterator[str]:
    """Every chart is one exact version from a trusted repository."""
    version = release.inputs.get("version") or ""
    if not _EXACT.match(version):
        yield f"chart {release.inputs.get('chart')} has the version {version or 'that is newest'}"
    repository = (release.inputs.get("repositoryOpts") or {}).get("repo")
    if repository not in values["repositories"]:
        yield f"chart {release.inputs.get('chart')} comes from {repository or 'an unnamed repository'}"
