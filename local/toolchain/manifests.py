"""Regenerates the manifests in `infra/` that are made from a pinned module."""

from pathlib import Path

from local import toolchain
from local.paths import ROOT

_FOLDER = ROOT / "infra/platform/manifests"


def regenerate() -> Path:
    """Write the manifest of KubeVirt's operator; returns its path, which names the pinned version."""
    text = toolchain.operator_manifest()
    version = text.rpartition("virt-operator:")[2].split()[0]
    path = _FOLDER / f"kubevirt-operator-{version}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# The operator of KubeVirt {version}. Made by `make manifests`; do not edit.\n{text}")
    return path
