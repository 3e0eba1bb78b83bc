from typing import Any

from local.node_agent import storage
from local.node_agent.kube import Object

CLASS: Object = {
    "metadata": {"name": "longhorn"},
    "provisioner": "driver.longhorn.io",
    "parameters": {"numberOfReplicas": "2"},
    "reclaimPolicy": "Retain",
    "volumeBindingMode": "Immediate",
}
WAITING: Object = {**CLASS, "volumeBindingMode": "WaitForFirstConsumer"}


def a_claim(**annotations: str) -> Object:
    known = {"volume.kubernetes.io/storage-provisioner": "driver.longhorn.io"}
    return {
        "metadata": {
            "name": "workspace-acme",
            "namespace": "tenant-acme",
            "uid": "u1",
            "resourceVersion": "7",
            "annotations": {
                **known,
                **{name.replace("__", "/"): value for name, value in annotations.items()},
            },
        },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "volumeMode": "Block",
            "storageClassName": "longhorn",
            "resources": {"requests": {"storage": "20Gi"}},
        },
        "status": {"phase": "Pending"},
    }


def test_a_claim_gets_a_volume_of_its_class() -> None:
    volume = storage.volume_for(a_claim(), CLASS)
    assert volume is not None
    assert volume["metadata"]["name"] == "pvc-u1"
    spec = volume["spec"]
    assert spec["claimRef"]["uid"] == "u1"
    assert spec["capacity"] == {"storage": "20Gi"}
    assert (spec["persistentVolumeReclaimPolicy"], spec["volumeMode"]) == ("Retain", "Block")
    assert spec["csi"] == {
        "driver": "driver.longhorn.io",
        "volumeHandle": "pvc-u1",
        "volumeAttributes": {"numberOfReplicas": "2"},
    }


def test_no_volume_before_its_time() -> None:
    not_yet_handed_over = a_claim()
    del not_yet_handed_over["metadata"]["annotations"]
    assert storage.volume_for(not_yet_handed_over, CLASS) is None
    assert storage.volume_for(a_claim(), WAITING) is None
    selected = a_claim()
    selected["metadata"]["annotations"][storage.SELECTED_NODE] = "n1"
    assert storage.volume_for(selected, WAITING) is not None
    bound = a_claim()
    bound["spec"]["volumeName"] = "pvc-u1"
    assert storage.volume_for(bound, CLASS) is None
    deleted = a_claim()
    deleted["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert storage.volume_for(deleted, CLASS) is None


def a_volume(phase: str, policy: str, *, provisioned: bool = True) -> Any:
    annotations = {"pv.kubernetes.io/provisioned-by": "driver.longhorn.io"} if provisioned else {}
    return {
        "metadata": {"name": "pvc-u1", "annotations": annotations},
        "spec": {"persistentVolumeReclaimPolicy": policy, "capacity": {"storage": "20Gi"}},
        "status": {"phase": phase},
    }


def test_only_released_volumes_of_ours_with_policy_delete_go() -> None:
    assert storage.is_to_delete(a_volume("Released", "Delete"))
    assert not storage.is_to_delete(a_volume("Released", "Retain"))
    assert not storage.is_to_delete(a_volume("Bound", "Delete"))
    assert not storage.is_to_delete(a_volume("Released", "Delete", provisioned=False))


def test_a_bound_claim_grows() -> None:
    claim = a_claim()
    claim["status"] = {"phase": "Bound", "capacity": {"storage": "20Gi"}}
    assert storage.size_to_grow(claim, a_volume("Bound", "Delete")) is None
    claim["spec"]["resources"]["requests"]["storage"] = "30Gi"
    assert storage.size_to_grow(claim, a_volume("Bound", "Delete")) == "30Gi"


def test_an_encrypted_volume_names_its_own_key() -> None:
    steps = {
        f"csi.storage.k8s.io/{step}-secret-{key}": value
        for step in ("provisioner", "node-stage", "node-publish", "node-expand")
        for key, value in (("name", "${pvc.name}"), ("namespace", "${pvc.namespace}"))
    }
    encrypted = {**CLASS, "parameters": {"encrypted": "true", **steps}}
    secret = {"name": "workspace-acme", "namespace": "tenant-acme"}

    assert storage.secret_for(a_claim(), CLASS) is None
    assert storage.secret_for(a_claim(), encrypted) == secret
    volume = storage.volume_for(a_claim(), encrypted)
    assert volume is not None
    assert volume["spec"]["csi"] == {
        "driver": "driver.longhorn.io",
        "volumeHandle": "pvc-u1",
        "volumeAttributes": {"encrypted": "true"},
        "nodeStageSecretRef": secret,
        "nodePublishSecretRef": secret,
        "nodeExpandSecretRef": secret,
    }
