"""Residency: where things are, and work that is done elsewhere."""

from typing import Any

from tests.policy.examples import failing, passing
from tests.policy.examples.customers import NODE_POOL
from tests.policy.examples.pods import container, deployment, pod
from tests.policy.scene import Scene

_NETWORK = "exoscale:index/privateNetwork:PrivateNetwork"
_BUCKET = "pulumi-python:dynamic/agent-platform:Bucket"
_STORE = "barmancloud.cnpg.io/v1:ObjectStore"
_RELEASE = "kubernetes:helm.sh/v3:Release"
_DEPLOYMENT = "apps/v1:Deployment"

_REGION = "topology.kubernetes.io/region"


@passing("residency-zone", zones=["ch-gva-2", "ch-dk-2", "at-vie-1"])
def in_switzerland(scene: Scene) -> None:
    for zone in ("ch-gva-2", "ch-dk-2", "at-vie-1"):
        scene.declare(_NETWORK, {"name": scene.name, "zone": zone}, suffix=zone)
    scene.declare("exoscale:index/antiAffinityGroup:AntiAffinityGroup", {"name": scene.name}, suffix="apart")


@failing("residency-zone")
def in_germany(scene: Scene) -> None:
    scene.declare(_NETWORK, {"name": scene.name, "zone": "de-fra-1"})


def _bucket(scene: Scene, region: str, endpoint: str) -> None:
    inputs = {"name": scene.name, "versioned": True, "region": region, "endpoint": endpoint}
    scene.declare(_BUCKET, inputs, protect=True, suffix=f"{region}-{endpoint[:5]}")


@passing("residency-bucket")
def bucket_in_switzerland(scene: Scene) -> None:
    _bucket(scene, "ch-dk-2", "https://sos-ch-dk-2.exo.io")
    _bucket(scene, "ch-gva-2", "http://127.0.0.1:8333")


@failing("residency-bucket")
def bucket_in_germany(scene: Scene) -> None:
    _bucket(scene, "de-fra-1", "https://sos-de-fra-1.exo.io")


@failing("residency-bucket")
def bucket_reached_elsewhere(scene: Scene) -> None:
    _bucket(scene, "ch-gva-2", "https://s3.eu-central-1.amazonaws.com")


def _store(scene: Scene, **configuration: Any) -> None:
    spec = {"retentionPolicy": "30d", "configuration": configuration}
    scene.kubernetes(_STORE, {"spec": spec}, suffix="store")


def _longhorn(scene: Scene, target: str) -> None:
    values = {"defaultBackupStore": {"backupTarget": target}}
    release = {"chart": "longhorn", "version": "1.12.0", "namespace": "longhorn-system", "values": values}
    scene.declare(_RELEASE, {"name": scene.name, **release}, suffix="longhorn")


@passing("residency-backups")
def backed_up_in_switzerland(scene: Scene) -> None:
    _store(scene, endpointURL="https://sos-ch-gva-2.exo.io")
    _longhorn(scene, "s3://backups@ch-gva-2/longhorn")


@failing("residency-backups")
def backed_up_at_amazon(scene: Scene) -> None:
    _store(scene)


@failing("residency-backups")
def volumes_backed_up_abroad(scene: Scene) -> None:
    _longhorn(scene, "s3://backups@bg-sof-1/longhorn")


@passing("residency-provider", packages=["kubernetes"])
def known_provider(scene: Scene) -> None:
    _placed(scene)


@passing("residency-provider", packages=["kubernetes"])
def marked_provider(scene: Scene) -> None:
    pool = {
        "name": scene.name,
        "clusterId": "sks",
        "instanceType": "standard.large",
        "size": 2,
        "zone": "ch-gva-2",
    }
    scene.declare(NODE_POOL, {**pool, "labels": {"compute-offload": "de-fra-1"}})


@failing("residency-provider", packages=["kubernetes"])
def unknown_provider(scene: Scene) -> None:
    scene.declare(_NETWORK, {"name": scene.name, "zone": "ch-gva-2"})


def _placed(scene: Scene, *, suffix: str = "", labels: dict[str, str] | None = None, **spec: Any) -> None:
    declared = deployment(pod(**spec))
    declared["spec"]["template"]["metadata"] = {"labels": {"app": "agent", **(labels or {})}}
    scene.kubernetes(_DEPLOYMENT, declared, suffix=suffix)


@passing("residency-offload-marked")
def here_or_marked(scene: Scene) -> None:
    _placed(scene, suffix="anywhere")
    _placed(scene, suffix="here", nodeSelector={_REGION: "ch-gva-2"})
    marked = {"compute-offload": "hetzner-fsn1"}
    _placed(scene, suffix="marked", labels=marked, nodeSelector={_REGION: "hetzner-fsn1"})


@failing("residency-offload-marked")
def elsewhere(scene: Scene) -> None:
    _placed(scene, nodeSelector={_REGION: "hetzner-fsn1"})


@failing("residency-offload-marked")
def perhaps_elsewhere(scene: Scene) -> None:
    expression = {"key": _REGION, "operator": "In", "values": ["ch-gva-2", "hetzner-fsn1"]}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
    _placed(scene, affinity={"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}})


@failing("residency-offload-marked")
def rather_elsewhere(scene: Scene) -> None:
    expression = {"key": _REGION, "operator": "In", "values": ["hetzner-fsn1"]}
    preferred = [{"weight": 1, "preference": {"matchExpressions": [expression]}}]
    _placed(scene, affinity={"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}})


_MARKED = {"compute-offload": "modal"}


@passing("residency-offload-keeps-nothing")
def offloaded_with_scratch(scene: Scene) -> None:
    volumes = [{"name": "scratch", "emptyDir": {}}]
    _placed(scene, labels=_MARKED, volumes=volumes)


@failing("residency-offload-keeps-nothing")
def offloaded_with_a_volume(scene: Scene) -> None:
    volumes = [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}]
    _placed(scene, labels=_MARKED, volumes=volumes)


@failing("residency-offload-keeps-nothing")
def offloaded_set_with_volumes(scene: Scene) -> None:
    template = {"metadata": {"labels": _MARKED}, "spec": pod(container())}
    volumes = [{"metadata": {"name": "models"}, "spec": {"resources": {"requests": {"storage": "1Gi"}}}}]
    spec = {"selector": {"matchLabels": _MARKED}, "template": template, "volumeClaimTemplates": volumes}
    scene.kubernetes("apps/v1:StatefulSet", {"spec": spec})
