"""The evaluator against the specification of NetworkPolicies, rule by rule, and by its laws."""

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.attack.network_policy import EVERY, NONE, End, Pod, passing, ports, selects, told

EVERYTHING, NOTHING, WEB = told(EVERY), told(NONE), "TCP 443"


def through(policies: list[dict[str, Any]], source: End, destination: End) -> str:
    """What passes, in words."""
    return told(passing(policies, source, destination))


def pod(namespace: str, **labels: str) -> Pod:
    return Pod(
        name="pod",
        namespace=namespace,
        labels=labels,
        namespace_labels={"kubernetes.io/metadata.name": namespace},
        addresses=[ipaddress.ip_address("10.1.2.3")],
        named_ports=[("http", "TCP", 8080), ("http", "UDP", 8081)],
    )


def policy(namespace: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "policy", "namespace": namespace}, "spec": {"podSelector": {}, **spec}}


def named(namespace: str) -> dict[str, Any]:
    return {"matchLabels": {"kubernetes.io/metadata.name": namespace}}


A, B = pod("a", app="x"), pod("b", app="y")
OUTSIDE = ipaddress.ip_address("1.1.1.1")


def test_a_pod_without_a_policy_lets_everything_through() -> None:
    assert through([], A, B) == EVERYTHING
    assert through([policy("c", ingress=[])], A, B) == EVERYTHING


def test_a_policy_without_types_is_for_ingress() -> None:
    closed = [policy("b")]

    assert through(closed, A, B) == NOTHING
    assert through(closed, B, A) == EVERYTHING


def test_a_policy_without_types_is_for_egress_too_if_it_has_a_word_on_it() -> None:
    closed = [policy("b", egress=[])]

    assert through(closed, A, B) == NOTHING
    assert through(closed, B, A) == NOTHING


def test_a_type_without_rules_closes_that_direction_alone() -> None:
    assert through([policy("a", policyTypes=["Egress"])], A, B) == NOTHING
    assert through([policy("a", policyTypes=["Egress"])], B, A) == EVERYTHING
    # Rules of a direction that is not among the types do not count.
    assert through([policy("b", policyTypes=["Egress"], ingress=[])], A, B) == EVERYTHING


def test_both_ends_have_to_let_it_through() -> None:
    out = policy("a", policyTypes=["Egress"], egress=[{"ports": [{"port": 443}, {"port": 80}]}])
    into = policy("b", ingress=[{"ports": [{"port": 443}, {"port": 22}]}])

    assert through([out, into], A, B) == WEB


def test_an_empty_rule_is_everybody_on_every_port() -> None:
    assert through([policy("b", ingress=[{}])], A, B) == EVERYTHING
    assert through([policy("b", ingress=[{"from": [], "ports": []}])], A, B) == EVERYTHING


def test_policies_add_up() -> None:
    closed, web, names = (
        policy("b"),
        policy("b", ingress=[{"ports": [{"port": 443}]}]),
        policy("b", ingress=[{"ports": [{"protocol": "UDP", "port": 53}]}]),
    )

    assert through([closed, web, names], A, B) == "TCP 443, UDP 53"


def test_a_policy_is_for_the_pods_that_it_selects_in_its_own_namespace() -> None:
    assert through([policy("b", podSelector={"matchLabels": {"app": "y"}})], A, B) == NOTHING
    assert through([policy("b", podSelector={"matchLabels": {"app": "x"}})], A, B) == EVERYTHING
    assert through([policy("a")], A, B) == EVERYTHING


@pytest.mark.parametrize(
    ("peer", "from_a", "from_its_own"),
    [
        ({"podSelector": {}}, False, True),
        ({"podSelector": {"matchLabels": {"app": "y"}}}, False, True),
        ({"podSelector": {"matchLabels": {"app": "x"}}}, False, False),
        ({"namespaceSelector": {}}, True, True),
        ({"namespaceSelector": named("a")}, True, False),
        ({"namespaceSelector": named("a"), "podSelector": {"matchLabels": {"app": "x"}}}, True, False),
        ({"namespaceSelector": named("a"), "podSelector": {"matchLabels": {"app": "y"}}}, False, False),
        ({"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "y"}}}, False, True),
        ({"ipBlock": {"cidr": "0.0.0.0/0"}}, True, True),
        ({"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}, False, False),
    ],
)
def test_a_peer_is_a_selection_of_pods_of_namespaces_of_both_or_of_addresses(
    peer: dict[str, Any], from_a: bool, from_its_own: bool
) -> None:
    policies = [policy("b", ingress=[{"from": [peer]}])]

    assert through(policies, A, B) == (EVERYTHING if from_a else NOTHING)
    assert through(policies, pod("b", app="y"), B) == (EVERYTHING if from_its_own else NOTHING)


def test_two_peers_of_a_rule_are_alternatives() -> None:
    peers = [{"namespaceSelector": named("nobody")}, {"podSelector": {}}, {"namespaceSelector": named("a")}]

    assert through([policy("b", ingress=[{"from": peers}])], A, B) == EVERYTHING


def test_addresses_have_no_policies_and_match_no_selector() -> None:
    by_selector = policy("b", ingress=[{"from": [{"namespaceSelector": {}}]}])
    by_block = policy("b", ingress=[{"from": [{"ipBlock": {"cidr": "1.0.0.0/8"}}]}])

    assert through([by_selector], OUTSIDE, B) == NOTHING
    assert through([by_block], OUTSIDE, B) == EVERYTHING
    assert through([by_block], B, OUTSIDE) == EVERYTHING
    assert through([by_block], ipaddress.ip_address("::1"), B) == NOTHING


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"port": 443}, WEB),
        ({"protocol": "UDP", "port": 53}, "UDP 53"),
        ({"protocol": "UDP"}, "UDP 1-65535"),
        ({}, "TCP 1-65535"),
        ({"port": 1000, "endPort": 1003}, "TCP 1000-1003"),
        ({"port": "http"}, "TCP 8080"),
        ({"protocol": "UDP", "port": "http"}, "UDP 8081"),
        ({"port": "no-such-name"}, NOTHING),
    ],
)
def test_ports_are_numbers_ranges_names_or_a_whole_protocol(entry: dict[str, Any], expected: str) -> None:
    assert through([policy("b", ingress=[{"ports": [entry]}])], A, B) == expected


def test_a_named_port_is_the_destinations_and_an_address_has_none() -> None:
    out = [policy("a", policyTypes=["Egress"], egress=[{"ports": [{"port": "http"}]}])]

    assert through(out, A, B) == "TCP 8080"
    assert through(out, A, OUTSIDE) == NOTHING


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ({}, True),
        ({"matchLabels": {"app": "x"}}, True),
        ({"matchLabels": {"app": "x", "tier": "y"}}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["x", "z"]}]}, True),
        ({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["x"]}]}, False),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["x"]}]}, False),
        ({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["x"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, False),
        ({"matchLabels": {"app": "x"}, "matchExpressions": [{"key": "y", "operator": "Exists"}]}, False),
    ],
)
def test_a_selector_matches_by_all_that_it_says(selector: dict[str, Any], matches: bool) -> None:
    assert selects(selector, {"app": "x"}) is matches


def test_an_unknown_operator_is_no_silent_match() -> None:
    with pytest.raises(ValueError, match="Gt"):
        selects({"matchExpressions": [{"key": "app", "operator": "Gt", "values": ["1"]}]}, {"app": "x"})


def test_ports_are_told_in_words() -> None:
    found = ports("TCP", 443) | ports("TCP", 445, 446) | ports("UDP", 65535)

    assert told(found) == "TCP 443, TCP 445-446, UDP 65535"
    assert told(EVERY) == "TCP 1-65535, UDP 1-65535, SCTP 1-65535"
    assert told(NONE) == "no port"


LABELS = st.dictionaries(st.sampled_from(["app", "tier"]), st.sampled_from(["x", "y"]))
SELECTORS = st.one_of(
    LABELS.map(lambda labels: {"matchLabels": labels}),
    st.builds(
        lambda key, operator: {
            "matchExpressions": [{"key": key, "operator": operator, "values": ["x"]}],
        },
        st.sampled_from(["app", "tier"]),
        st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"]),
    ),
)
PEERS = st.one_of(
    st.fixed_dictionaries({}, optional={"podSelector": SELECTORS, "namespaceSelector": SELECTORS}).filter(
        bool
    ),
    st.sampled_from(
        [{"ipBlock": {"cidr": "10.0.0.0/8"}}, {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.1.0.0/16"]}}]
    ),
)
PORTS = st.sampled_from([{}, {"port": 443}, {"port": "http"}, {"protocol": "UDP", "port": 1, "endPort": 99}])
RULES = st.lists(
    st.fixed_dictionaries(
        {}, optional={"peers": st.lists(PEERS, max_size=2), "ports": st.lists(PORTS, max_size=2)}
    ),
    max_size=2,
)


def _policy(
    namespace: str, selector: Any, types: list[str] | None, ingress: Any, egress: Any
) -> dict[str, Any]:
    def renamed(rules: Any, peers: str) -> Any:
        return [{peers if key == "peers" else key: value for key, value in rule.items()} for rule in rules]

    spec: dict[str, Any] = {"podSelector": selector, "ingress": renamed(ingress, "from")}
    if egress is not None:
        spec["egress"] = renamed(egress, "to")
    if types is not None:
        spec["policyTypes"] = types
    return policy(namespace, **spec)


TYPES = st.sampled_from([None, ["Ingress"], ["Egress"], ["Ingress", "Egress"]])
POLICIES = st.builds(_policy, st.sampled_from(["a", "b"]), SELECTORS, TYPES, RULES, st.none() | RULES)
PODS = st.builds(lambda namespace, labels: pod(namespace, **labels), st.sampled_from(["a", "b", "c"]), LABELS)
ENDS = st.one_of(
    PODS, st.sampled_from([OUTSIDE, ipaddress.ip_address("10.9.9.9"), ipaddress.ip_address("::1")])
)
CASES = st.tuples(st.lists(POLICIES, max_size=4), ENDS, ENDS)


def opened(before: list[Any], after: list[Any], source: End, destination: End) -> str:
    """What passes with some policies, and did not with others."""
    return told(passing(after, source, destination) & ~passing(before, source, destination))


CLOSED = [policy(name, policyTypes=["Ingress", "Egress"]) for name in ("a", "b", "c")]


@given(CASES, POLICIES)
def test_a_policy_that_selects_nobody_changes_nothing(case: Any, more: dict[str, Any]) -> None:
    policies, source, destination = case
    nobody = {**more, "spec": {**more["spec"], "podSelector": {"matchLabels": {"app": "nobody's"}}}}

    assert through([*policies, nobody], source, destination) == through(policies, source, destination)


@given(CASES, POLICIES)
def test_where_everything_is_closed_by_default_another_policy_only_opens(
    case: Any, more: dict[str, Any]
) -> None:
    policies, source, destination = case

    assert opened([*CLOSED, *policies, more], [*CLOSED, *policies], source, destination) == NOTHING


@given(CASES)
def test_closing_by_default_never_opens(case: Any) -> None:
    policies, source, destination = case

    assert opened(policies, [*policies, *CLOSED], source, destination) == NOTHING


@given(CASES, RULES)
def test_another_rule_in_a_policy_only_opens(case: Any, rules: list[Any]) -> None:
    policies, source, destination = case
    more = [
        {**each, "spec": {**each["spec"], "ingress": [*each["spec"]["ingress"], *rules]}} for each in policies
    ]

    assert opened(more, policies, source, destination) == NOTHING


@given(CASES)
def test_their_order_makes_no_difference(case: Any) -> None:
    policies, source, destination = case

    assert through(policies[::-1], source, destination) == through(policies, source, destination)
