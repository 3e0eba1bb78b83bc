"""Images, wherever one is named."""

from typing import Any

from tests.policy.examples import failing, passing
from tests.policy.examples.pods import container, pod
from tests.policy.scene import Scene, unknown

_DIGEST = f"sha256:{'0' * 64}"
_OPERATOR = f"quay.io/kubevirt/virt-operator:v1.8.4@{_DIGEST}"


def _machine(image: Any) -> dict[str, Any]:
    volumes = [{"name": "system", "containerDisk": {"image": image}}]
    spec = {"domain": {"devices": {}}, "volumes": volumes}
    return {"spec": {"runStrategy": "Manual", "template": {"spec": spec}}}


def _release(**changed: Any) -> dict[str, Any]:
    chart = {
        "chart": "longhorn",
        "version": "1.12.0",
        "namespace": "longhorn-system",
        "repositoryOpts": {"repo": "https://charts.longhorn.io"},
    }
    return {**chart, **changed}


@passing("images-by-digest")
@passing("images-no-moving-tag")
@passing("images-from-trusted")
def pinned(scene: Scene) -> None:
    scene.kubernetes("core/v1:Pod", {"spec": pod(container(image=_OPERATOR))}, suffix="pod")
    disk = f"quay.io/kubevirt/disk@{_DIGEST}"
    scene.kubernetes("kubevirt.io/v1:VirtualMachine", _machine(disk), suffix="machine")
    image = {"registry": "quay.io", "repository": "kubevirt/tool", "tag": "v1", "digest": _DIGEST}
    values = {"image": image, "existingSecret": unknown(), "sidecars": [{"image": disk}]}
    scene.declare("kubernetes:helm.sh/v3:Release", _release(values=values), suffix="release")


@passing("images-by-digest", tagged={"ghcr.io/cloudnative-pg/postgresql:18.6": "a test of exceptions"})
def tagged_by_name(scene: Scene) -> None:
    spec = {"instances": 1, "imageName": "ghcr.io/cloudnative-pg/postgresql:18.6", "storage": {"size": "1Gi"}}
    scene.kubernetes("postgresql.cnpg.io/v1:Cluster", {"spec": spec})


@failing("images-by-digest")
def by_tag(scene: Scene) -> None:
    scene.kubernetes("core/v1:Pod", {"spec": pod(container(image="quay.io/kubevirt/virt-operator:v1.8.4"))})


@failing("images-by-digest")
def kernel_by_tag(scene: Scene) -> None:
    machine = _machine(f"quay.io/kubevirt/disk@{_DIGEST}")
    container = {"image": "quay.io/kubevirt/disk:v1", "kernelPath": "/boot/vmlinuz"}
    machine["spec"]["template"]["spec"]["domain"]["firmware"] = {"kernelBoot": {"container": container}}
    scene.kubernetes("kubevirt.io/v1:VirtualMachine", machine)


@failing("images-by-digest")
def disk_by_tag(scene: Scene) -> None:
    scene.kubernetes("kubevirt.io/v1:VirtualMachine", _machine("quay.io/kubevirt/disk:v1"))


@failing("images-by-digest")
def database_by_tag(scene: Scene) -> None:
    spec = {"instances": 1, "imageName": "ghcr.io/cloudnative-pg/postgresql:17", "storage": {"size": "1Gi"}}
    scene.kubernetes("postgresql.cnpg.io/v1:Cluster", {"spec": spec})


@failing("images-by-digest")
def in_values_by_tag(scene: Scene) -> None:
    values = {"manager": {"image": {"repository": "quay.io/kubevirt/tool", "tag": "v1"}}}
    scene.declare("kubernetes:helm.sh/v3:Release", _release(values=values))


@failing("images-by-digest")
def digest_cut_short(scene: Scene) -> None:
    image = f"quay.io/kubevirt/virt-operator@{_DIGEST[:-1]}"
    scene.kubernetes("core/v1:Pod", {"spec": pod(container(image=image))})


@failing("images-no-moving-tag")
def latest(scene: Scene) -> None:
    scene.kubernetes("core/v1:Pod", {"spec": pod(container(image="quay.io/kubevirt/virt-operator:latest"))})


@failing("images-no-moving-tag")
def no_tag_behind_a_port(scene: Scene) -> None:
    scene.kubernetes("kubevirt.io/v1:VirtualMachine", _machine("registry.example.ch:5000/disk"))


@failing("images-from-trusted")
def from_anywhere(scene: Scene) -> None:
    scene.kubernetes("core/v1:Pod", {"spec": pod(container(image=f"library/nginx@{_DIGEST}"))})


@failing("images-from-trusted")
def trusted_name_as_a_folder(scene: Scene) -> None:
    image = f"evil.example/quay.io/kubevirt/virt-operator@{_DIGEST}"
    scene.kubernetes("kubevirt.io/v1:VirtualMachine", _machine(image))


@passing("images-charts-pinned")
def chart(scene: Scene) -> None:
    scene.declare("kubernetes:helm.sh/v3:Release", _release())


@failing("images-charts-pinned")
def chart_in_a_range(scene: Scene) -> None:
    scene.declare("kubernetes:helm.sh/v3:Release", _release(version="1.x"))


@failing("images-charts-pinned")
def chart_from_anywhere(scene: Scene) -> None:
    repository = {"repo": "https://charts.example.com"}
    scene.declare("kubernetes:helm.sh/v3:Release", _release(repositoryOpts=repository))
