"""What belongs to the change, to whom, and what goes with it."""

from review.changes import UNKNOWN, compare
from tests.review.examples import CLAIM, CLUSTER_URN, POLICY, POOL, names, plan, step, tenant_urn

ACME = tenant_urn("acme")


def test_what_the_base_would_do_anyway_is_not_from_this_change() -> None:
    drifted = step(POLICY, "acme-policy", "update", parent=ACME, inputs={"policy": "now"})
    added = step(POLICY, "new-policy", "create", parent=tenant_urn("new"))
    compared = compare(plan(drifted), plan(drifted, added), from_state=True)
    assert names(compared.made) == ["create new-policy"]
    assert names(compared.pending) == ["update acme-policy"]


def test_a_pending_step_that_the_change_makes_different_is_from_this_change() -> None:
    before = step(POLICY, "acme-policy", "update", parent=ACME, inputs={"policy": "pending"})
    after = step(POLICY, "acme-policy", "update", parent=ACME, inputs={"policy": "other"})
    assert names(compare(plan(before), plan(after), from_state=True).made) == ["update acme-policy"]


def test_what_is_no_longer_pending_is_told() -> None:
    before = step(POLICY, "acme-policy", "update", parent=ACME, inputs={"policy": "pending"})
    after = step(POLICY, "acme-policy", "same", parent=ACME)
    compared = compare(plan(before), plan(after), from_state=True)
    assert (compared.made, names(compared.settled)) == ((), ["update acme-policy"])


def test_what_was_brought_up_before_its_review_is_declared_by_the_change_and_runs_already() -> None:
    unknown = step(CLAIM, "new-workspace", "delete", parent=tenant_urn("new"))
    running = step(CLAIM, "new-workspace", "same", parent=tenant_urn("new"))
    compared = compare(plan(unknown), plan(running), from_state=True)
    assert names(compared.made) == names(compared.running) == ["create new-workspace"]
    assert (compared.settled, compared.losses) == ((), ())


def test_a_resource_belongs_to_the_component_above_it_however_deep() -> None:
    inner = step("agent-platform:tenants:Dedicated", "acme-dedicated", "create", parent=ACME)
    deep = step(CLAIM, "acme-workspace", "create", parent=inner.urn)
    pool = step("exoscale:index/antiAffinityGroup:AntiAffinityGroup", "apart", "create", parent=CLUSTER_URN)
    stray = step(POLICY, "stray", "create", parent="")
    compared = compare(plan(), plan(inner, deep, pool, stray), from_state=True)
    assert {change.name: (change.owner, change.kind) for change in compared.made} == {
        "acme-workspace": ("acme", "tenant"),
        "apart": ("cluster", "shared"),
        "stray": ("platform", "shared"),
    }


def test_a_tenant_named_like_a_layer_is_still_a_tenant() -> None:
    made = compare(
        plan(), plan(step(POLICY, "cluster-policy", "create", parent=tenant_urn("cluster"))), from_state=True
    )
    assert [(change.owner, change.kind) for change in made.made] == [("cluster", "tenant")]


def test_components_and_the_engines_own_providers_are_not_listed() -> None:
    component = step("agent-platform:tenants:Tenant", "new", "create")
    provider = step("pulumi:providers:pulumi-python", "default", "update")
    stack = step("pulumi:pulumi:Stack", "agent-platform-local", "create", parent="")
    assert compare(plan(), plan(component, provider, stack), from_state=True).made == ()


def test_deletions_and_replacements_of_what_holds_data_are_losses_deletions_first() -> None:
    steps = (
        step(
            CLAIM,
            "a-replaced",
            "replace",
            parent=ACME,
            changed=("spec.storageClassName",),
            replacing=("spec",),
        ),
        step(CLAIM, "b-deleted", "delete", parent=ACME),
        step(CLAIM, "c-grown", "update", parent=ACME),
        step(POLICY, "d-policy", "delete", parent=ACME),
    )
    losses = compare(plan(), plan(*steps), from_state=True).losses
    assert names(losses) == ["delete b-deleted", "replace a-replaced"]
    assert losses[0].lost == "the volume and every file on it"
    assert losses[1].properties[0].replaces


def test_a_tenants_own_nodes_hold_no_volume_and_those_of_the_cluster_do() -> None:
    own = step(POOL, "acme-nodes", "delete", parent=ACME)
    shared = step(POOL, "more-workers", "delete", parent=CLUSTER_URN)
    assert names(compare(plan(), plan(own, shared), from_state=True).losses) == ["delete more-workers"]


def test_where_the_plan_names_no_property_the_inputs_are_compared() -> None:
    was, now = {"state": "active", "__provider": "a"}, {"state": "offboarding", "__provider": "b"}
    registration = step(
        "pulumi-python:dynamic/agent-platform:Registration", "r", "update", was=was, inputs=now
    )
    [change] = compare(plan(), plan(registration), from_state=True).made
    assert [(item.path, item.before, item.after) for item in change.properties] == [
        ("state", "active", "offboarding")
    ]


def test_values_are_shown_where_they_are_short_and_known() -> None:
    step_ = step(
        "kubernetes:apps/v1:Deployment",
        "agent",
        "update",
        parent=ACME,
        was={"spec": {"replicas": 1, "list": [{"image": "a:1"}], "labels": {"a.b/c": "x"}, "id": "old"}},
        inputs={"spec": {"replicas": 0, "list": [{"image": "a:2"}], "labels": {"a.b/c": "y"}, "id": UNKNOWN}},
        changed=("spec.id", 'spec.labels["a.b/c"]', "spec.list[0].image", "spec.replicas", "spec.template"),
    )
    [change] = compare(plan(), plan(step_), from_state=True).made
    shown = {item.path: (item.before, item.after) for item in change.properties}
    assert shown == {
        "spec.id": ("old", None),
        'spec.labels["a.b/c"]': ("x", "y"),
        "spec.list[0].image": ("a:1", "a:2"),
        "spec.replicas": ("1", "0"),
        "spec.template": (None, None),
    }


def test_two_plans_from_nothing_are_compared_as_sets_of_resources() -> None:
    kept = step(POLICY, "kept", "create", parent=ACME, inputs={"policy": "same", "__defaults": []})
    again = step(POLICY, "kept", "create", parent=ACME, inputs={"policy": "same", "__defaults": ["x"]})
    old, new = (step(POLICY, "edited", "create", parent=ACME, inputs={"policy": text}) for text in "ab")
    gone = step(CLAIM, "gone", "create", parent=ACME)
    added = step(POLICY, "added", "create", parent=ACME)
    compared = compare(plan(kept, old, gone), plan(again, new, added), from_state=False)
    assert names(compared.made) == ["delete gone", "update edited", "create added"]
    assert compared.made[1].properties[0].before == "a"
    assert names(compared.losses) == ["delete gone"]
