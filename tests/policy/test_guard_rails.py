"""What the commands make of the pack's findings."""

from typing import Any

import pulumi
import pytest

from local import engine
from local.errors import LocalError
from tests.policy.examples.pods import container, pod
from tests.policy.scene import Scene, Stage


def _program(security: dict[str, Any]) -> None:
    scene = Scene("guarded", "acme", Stage())
    scene.kubernetes(
        "core/v1:Pod",
        {"spec": pod(container(image=f"quay.io/kubevirt/a@sha256:{'0' * 64}", securityContext=security))},
        suffix="pod",
    )


def test_a_refusal_is_one_message_that_says_what_why_and_how(engine_ready: None) -> None:
    stack = engine.stack("prod", program=lambda: _program({"privileged": True}))

    with pytest.raises(LocalError) as refused:
        engine.preview(stack, output=lambda _line: None)

    first, *findings = str(refused.value).splitlines()
    assert first == "the preview failed. Nothing was changed."
    assert {finding.split()[0] for finding in findings} == {
        "pods-no-privileged",
        "pods-no-capabilities",
        "pods-no-escalation",
        "pods-read-only-root",
    }
    (privileged,) = (finding for finding in findings if finding.startswith("pods-no-privileged"))
    assert privileged == (
        "pods-no-privileged guarded.pod: container agent is privileged; a privileged container is root on "
        "its node, and so over every tenant there; leave `privileged` out "
        "(https://kubernetes.io/docs/concepts/security/pod-security-standards/)"
    )


def test_what_breaks_no_rule_is_planned(engine_ready: None) -> None:
    security = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    stack = engine.stack("prod", program=lambda: _program(security))

    assert engine.preview(stack, output=lambda _line: None)["create"] == 5  # stack, pod, three providers


def test_a_mistake_in_the_program_is_still_told_alone(engine_ready: None) -> None:
    def mistaken() -> None:
        raise pulumi.RunError("a mistake of the user")

    with pytest.raises(LocalError, match=r"^a mistake of the user$"):
        engine.preview(engine.stack("prod", program=mistaken), output=lambda _line: None)
