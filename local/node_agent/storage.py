"""Volumes for claims, as a CSI driver's provisioner and resizer make them; Longhorn's word on backups.

kube-controller-manager binds claims to volumes and releases them; what is here is the part that it leaves to
the driver. A volume's data is a sparse file (`disks`); a snapshot or backup of it holds nothing.
"""

from local.node_agent.kube import Object
from local.node_agent.quantities import amount

SELECTED_NODE = "volume.kubernetes.io/selected-node"
"""Set by the scheduler on a claim whose class waits for the first consumer."""

_PROVISIONER = "volume.kubernetes.io/storage-provisioner"
_PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
_NO_PROVISIONER = "kubernetes.io/no-provisioner"
_CSI = "csi.storage.k8s.io/"
_REFERENCES = {
    "controller-expand": "controllerExpandSecretRef",
    "controller-publish": "controllerPublishSecretRef",
    "node-expand": "nodeExpandSecretRef",
    "node-publish": "nodePublishSecretRef",
    "node-stage": "nodeStageSecretRef",
}
"""Steps of a volume's life that may need a Secret, and where the volume names it."""


def waits_for_consumer(storage_class: Object) -> bool:
    """Return whether claims of the class get their volume only once a Pod has its node."""
    return bool(storage_class.get("volumeBindingMode") == "WaitForFirstConsumer")


def is_bound(claim: Object) -> bool:
    """Return whether `claim` has its volume."""
    return bool(claim.get("status", {}).get("phase") == "Bound")


def secret_for(claim: Object, storage_class: Object, step: str = "provisioner") -> Object | None:
    """Return name and namespace of the Secret that a step of the volume's life needs, None if it needs none.

    `step` is as in the parameters of a class; those of a provisioner have to be there before the volume is.
    """
    parameters = storage_class.get("parameters") or {}
    name, namespace = (parameters.get(f"{_CSI}{step}-secret-{key}") for key in ("name", "namespace"))
    if not name or not namespace:
        return None
    metadata = claim["metadata"]
    known = {"${pvc.name}": metadata["name"], "${pvc.namespace}": metadata["namespace"]}
    return {"name": known.get(name, name), "namespace": known.get(namespace, namespace)}


def volume_for(claim: Object, storage_class: Object) -> Object | None:
    """Return the volume to create for `claim`, None while there is none to create."""
    metadata, spec = claim["metadata"], claim["spec"]
    annotations = metadata.get("annotations") or {}
    provisioner = storage_class["provisioner"]
    if spec.get("volumeName") or metadata.get("deletionTimestamp"):
        return None
    if annotations.get(_PROVISIONER) != provisioner or provisioner == _NO_PROVISIONER:
        return None
    if waits_for_consumer(storage_class) and SELECTED_NODE not in annotations:
        return None
    name = f"pvc-{metadata['uid']}"
    secrets = {field: secret_for(claim, storage_class, step) for step, field in _REFERENCES.items()}
    parameters = storage_class.get("parameters") or {}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {_PROVISIONED_BY: provisioner}},
        "spec": {
            "accessModes": spec["accessModes"],
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"],
            },
            "csi": {
                "driver": provisioner,
                "volumeHandle": name,
                "volumeAttributes": {
                    key: value for key, value in parameters.items() if not key.startswith(_CSI)
                },
                **{field: secret for field, secret in secrets.items() if secret},
            },
            "mountOptions": storage_class.get("mountOptions") or [],
            "persistentVolumeReclaimPolicy": storage_class.get("reclaimPolicy", "Delete"),
            "storageClassName": storage_class["metadata"]["name"],
            "volumeMode": spec.get("volumeMode", "Filesystem"),
        },
    }


def is_to_delete(volume: Object) -> bool:
    """Return whether the driver deletes `volume`: its claim is gone and its policy says so."""
    provisioned = _PROVISIONED_BY in (volume["metadata"].get("annotations") or {})
    released = volume.get("status", {}).get("phase") == "Released"
    deleting = volume["metadata"].get("deletionTimestamp")
    return bool(
        provisioned
        and released
        and not deleting
        and volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
    )


def size_to_grow(claim: Object, volume: Object) -> str | None:
    """Return the size that `claim` asks for beyond what it has, None if it has it."""
    wanted: str = claim["spec"]["resources"]["requests"]["storage"]
    had = claim.get("status", {}).get("capacity", {}).get("storage", "0")
    in_step = amount(wanted) <= min(amount(had), amount(volume["spec"]["capacity"]["storage"]))
    return None if in_step or not is_bound(claim) else wanted


def snapshot_status(snapshot: Object) -> Object:
    """Return what Longhorn reports of a snapshot that it has taken."""
    return {"readyToUse": True, "userCreated": True, "labels": snapshot["spec"].get("labels") or {}}


def backup_status(backup: Object) -> Object:
    """Return what Longhorn reports of a backup that is complete."""
    return {
        "state": "Completed",
        "progress": 100,
        "snapshotName": backup["spec"]["snapshotName"],
        "volumeName": (backup["metadata"].get("labels") or {}).get("backup-volume", ""),
        "labels": backup["spec"].get("labels") or {},
    }
