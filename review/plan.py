"""Previews one tree: `python -m review.plan TREE OUT --stack STACK`, a process for each tree.

`infra` is the tree's, everything else this checkout's: both trees are run, judged and read in one way, a tree
from before this package existed too.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pulumi
from pulumi import automation as auto

from local import consoles, engine, servers, supervisor, toolchain
from local.errors import LocalError
from review.model import Finding, Operation, Plan, Step, TenantFacts

_OPERATIONS: Mapping[str, Operation] = {
    "create": "create",
    "import": "create",
    "read": "same",
    "same": "same",
    "refresh": "same",
    "update": "update",
    "replace": "replace",
    "create-replacement": "replace",
    "delete-replaced": "replace",
    "import-replacement": "replace",
    "read-replacement": "replace",
    "delete": "delete",
    "discard": "same",
    "discard-replaced": "replace",
    "remove-pending-replace": "same",
}

_OUTCOME = "preview failed"
"""What the engine says last of every preview that fails."""


class Recorder:
    """Collects an engine's events."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.steps: dict[str, Step] = {}
        self.findings: list[Finding] = []
        self.errors: list[str] = []

    @property
    def refused(self) -> bool:
        """Whether a policy refuses what the preview shows."""
        return any(finding.level == "mandatory" for finding in self.findings)

    def __call__(self, event: auto.EngineEvent) -> None:
        """Take one event."""
        if event.resource_pre_event:
            self._step(event.resource_pre_event.metadata)
        if event.diagnostic_event and event.diagnostic_event.severity == "error":
            message = event.diagnostic_event.message.strip()
            self.errors += [message] if message != _OUTCOME else []
        if event.policy_event:
            told = event.policy_event
            self.findings.append(
                Finding(
                    policy=told.policy_name,
                    level=told.enforcement_level,
                    message=told.message.strip(),
                    urn=told.resource_urn or "",
                )
            )

    def _step(self, step: auto.StepEventMetadata) -> None:
        operation = _OPERATIONS[str(getattr(step.op, "value", step.op))]
        new, old = step.new, step.old
        state = old if operation == "delete" or new is None else new
        if state is None:
            return
        detailed = step.detailed_diff or {}
        earlier = self.steps.get(step.urn)
        if earlier and earlier.operation == "replace" and new is None:
            return  # the half that deletes what is replaced
        self.steps[step.urn] = Step(
            urn=step.urn,
            type=step.type,
            name=step.urn.rpartition("::")[2],
            operation=operation,
            parent=state.parent,
            inputs=dict(state.inputs or {}),
            changed=tuple(sorted(detailed)) or tuple(sorted(step.diffs or ())),
            replacing=tuple(sorted(step.keys or ())),
            was=dict((old.inputs if old else None) or {}),
            protected=bool((old or state).protect),
            kept=bool((old or state).retain_on_delete),
        )


def _enter(tree: Path) -> None:
    """From here on `infra` is the tree's; what the policies took of ours at their import, they keep."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "infra"]:
        del sys.modules[name]
    sys.path.insert(0, str(tree))


def _tenants(tree: Path) -> Iterator[TenantFacts]:
    """What the roster and the tier table of the tree say."""
    from infra.tenants import tiers
    from infra.tenants.roster import load_roster

    roster = load_roster(tree / "tenants.yaml")
    for entry in roster.tenants:
        tier = tiers.TIERS[entry.tier]
        yield TenantFacts(
            id=entry.id,
            name=entry.name,
            tier=entry.tier,
            owner=entry.owner,
            state=entry.state,
            cpu=entry.size.cpu,
            memory_gib=entry.size.memory_gib,
            workspace_gib=entry.size.workspace_gib,
            shared_runtime=tier.shared_runtime,
            namespace=tier.namespace,
            machine=tier.machine,
            encrypted_workspace=tier.encrypted_workspace,
            node_pool=tier.node_pool,
            own_database=entry.own_database,
            vpn=entry.vpn is not None,
            claims=tuple(entry.claims),
            overclaims=tuple(claim for claim in entry.claims if not tier.may_claim(claim)),
            discard=tuple(entry.discard),
        )


def _facts(tree: Path) -> tuple[TenantFacts, ...]:
    try:
        return tuple(_tenants(tree))
    except pulumi.RunError:
        raise
    except Exception as error:  # noqa: BLE001 — a tree's code can raise anything
        raise LocalError(
            f"its roster and tiers cannot be read ({type(error).__name__}: {error}), so nothing was planned; "
            "mend infra/tenants there, or choose a base that has today's roster"
        ) from None


def plan(tree: Path, stack: str, *, backend: str | None, official_only: bool, unprotected: bool) -> Plan:
    """Preview the tree's program, of `unprotected` things too; a failure is told in the plan."""
    console, recorder, result = consoles.console(stderr=True), Recorder(), Plan()
    try:
        result = Plan(tenants=_facts(tree))
        local = stack == engine.LOCAL_STACK
        toolchain.ensure(console, *(() if local else ("pulumi",)))
        with supervisor.exclusive():
            engine.install_plugins(stack, official_only=official_only, tree=tree)
            if local:
                servers.start_all(console)
            with ExitStack() as until_previewed:
                selected = engine.stack(stack, tree=tree, backend=backend)
                if local and unprotected:
                    selected = until_previewed.enter_context(engine.unprotected(selected))
                engine.preview(selected, output=_quiet, on_event=recorder)
    except (LocalError, pulumi.RunError) as error:
        # A preview that policies alone refuse comes to its end, and all its steps count.
        if not recorder.refused:
            return result.failed(str(error))
        if recorder.errors:
            return result.failed("\n".join(["the preview failed.", *recorder.errors]))
    return Plan(
        steps=tuple(recorder.steps.values()), findings=tuple(recorder.findings), tenants=result.tenants
    )


def _quiet(_line: str) -> None: ...


def main() -> int:
    """Plan one tree and write what was found."""
    parser = argparse.ArgumentParser(prog="python -m review.plan", description=__doc__)
    parser.add_argument("tree", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--stack", required=True)
    parser.add_argument("--backend", help="the URL of the backend that has the stack's real state")
    parser.add_argument("--plugins", choices=("any", "official"), required=True)
    parser.add_argument("--unprotected", action="store_true", help="let the plan delete what is protected")
    options = parser.parse_args()
    _enter(options.tree)
    found = plan(
        options.tree,
        options.stack,
        backend=options.backend,
        official_only=options.plugins == "official",
        unprotected=options.unprotected,
    )
    found.write(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
