"""What a policy means for the API and for the S3 server."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.exoscale import expression, policy
from local.exoscale.expression import Absent, ExpressionError
from local.exoscale.policy import PolicyError
from tests.local.exoscale.conftest import LISTINGS, OBJECTS, rules

BUCKET = "parameters.bucket == 'b12'"
KEY = "parameters.key.startsWith('t/')"
PREFIX = "parameters.prefix.startsWith('t/')"
BINDINGS = {"operation": "get-object", "parameters": {"bucket": "b", "key": "t/x", "n": 3}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("operation == 'get-object'", True),
        ('operation != "get-object"', False),
        ("operation in ['put-object', 'get-object']", True),
        ("!(parameters.bucket in ['b', 'c'])", False),
        ("parameters.key.startsWith('t/') && parameters.key.endsWith('x')", True),
        ("parameters.key.contains('/') || false", True),
        ("parameters.has('key') && !parameters.has('acl')", True),
        ("parameters.n == 3", True),
        ("true || parameters.absent == 1", True),
        ("parameters.absent == 1 || true", True),
        ("parameters.absent == 1 && false", False),
        (r"'it\'s' == 'it\'s'", True),
        ("operation == 'a' || operation == 'get-object' && parameters.n == 3", True),
    ],
)
def test_value(text: str, value: bool) -> None:
    assert expression.evaluate(expression.parse(text), BINDINGS) is value


@pytest.mark.parametrize(
    "text", ["parameters.absent == 1", "operation && true", "parameters.n.startsWith('3')", "!operation"]
)
def test_without_value(text: str) -> None:
    with pytest.raises(Absent):
        expression.evaluate(expression.parse(text), BINDINGS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "operation ==",
        "operation = 'x'",
        "('a'",
        "['a'",
        "'open",
        "a.b(",
        "a.matches('.*')",
        "a b",
        "1 + 1",
        "!" * 60 + "true",
        "a.'b'",
    ],
)
def test_no_expression(text: str) -> None:
    with pytest.raises(ExpressionError):
        expression.parse(text)


@given(st.text(alphabet="ab.'\"()[]!=&|, in", max_size=40))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        expression.parse(text)
    except ExpressionError:
        return


def test_first_rule_that_holds_decides() -> None:
    some = {"default-service-strategy": "allow", "services": {"compute": {"type": "rules", "rules": []}}}
    listed = some["services"]["compute"]["rules"]  # type: ignore[index]
    assert not policy.allows(some, "compute", BINDINGS), "no rule holds, whatever the default strategy"
    listed += [
        {"action": "allow", "expression": "parameters.absent == 'x'"},
        {"action": "deny", "expression": "operation == 'get-object'"},
        {"action": "allow", "expression": "true"},
    ]
    assert not policy.allows(some, "compute", BINDINGS)
    assert policy.allows(some, "compute", BINDINGS | {"operation": "other"})
    assert policy.allows(some, "iam", BINDINGS), "a service without a policy follows the default strategy"


def test_an_operation_on_objects_is_confined_by_its_method_and_the_key() -> None:
    put = rules("operation == 'put-object' && parameters.bucket == 'logs' && parameters.key.startsWith('t/')")
    assert policy.storage_statements(put) == [
        {
            "Effect": "Allow",
            "Action": ["s3:PutObject"],
            "Resource": ["arn:aws:s3:::logs/t/*"],
            "Condition": {"StringEquals": {"s3:RequestMethod": "PUT"}},
        },
        {
            "Effect": "Deny",
            "Action": ["s3:UploadPart", "s3:UploadPartCopy"],
            "Resource": ["arn:aws:s3:::*"],
        },
    ]
    assert not policy.allows(put, "compute", {})


def test_a_listing_is_confined_by_the_prefix_that_it_asks_for() -> None:
    listing = f"operation == 'list-object-versions' && {BUCKET} && {PREFIX}"
    assert policy.storage_statements(rules(listing))[0] == {
        "Effect": "Allow",
        "Action": ["s3:ListBucketVersions"],
        "Resource": ["arn:aws:s3:::b12"],
        "Condition": {
            "StringEquals": {"s3:RequestMethod": "GET"},
            "StringLike": {"s3:prefix": "t/*"},
        },
    }


def test_parts_are_denied_but_where_they_are_granted() -> None:
    """The S3 server lets whoever may put an object upload a part of one."""
    steps = "operation in ['put-object', 'upload-part']"
    both = rules(
        f"operation == 'put-object' && {BUCKET} && parameters.key.startsWith('a/')",
        f"{steps} && {BUCKET} && (parameters.key.startsWith('b/') || parameters.key.startsWith('c/'))",
    )
    assert policy.storage_statements(both)[-1] == {
        "Effect": "Deny",
        "Action": ["s3:UploadPart", "s3:UploadPartCopy"],
        "NotResource": ["arn:aws:s3:::b12/b/*", "arn:aws:s3:::b12/c/*"],
    }


def test_every_alternative_is_translated() -> None:
    read = "operation in ['get-object', 'head-object'] && parameters.bucket == 'artifacts'"
    both = rules(f"{read} && (parameters.key.startsWith('a/') || parameters.key.startsWith('b/'))")
    allowed = [
        (each["Condition"]["StringEquals"]["s3:RequestMethod"], *each["Resource"])
        for each in policy.storage_statements(both)[:-1]
    ]
    assert allowed == [
        ("GET", "arn:aws:s3:::artifacts/a/*"),
        ("GET", "arn:aws:s3:::artifacts/b/*"),
        ("HEAD", "arn:aws:s3:::artifacts/a/*"),
        ("HEAD", "arn:aws:s3:::artifacts/b/*"),
    ]


EVERYTHING = [{"Effect": "Allow", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::*"]}]


@pytest.mark.parametrize(
    ("services", "default", "statements"),
    [
        ({}, "deny", []),
        ({}, "allow", EVERYTHING),
        ({"sos": {"type": "allow"}}, "deny", EVERYTHING),
        ({"sos": {"type": "deny"}}, "allow", []),
        ({"sos": {"type": "rules", "rules": []}}, "allow", []),
    ],
)
def test_whole_service(services: dict[str, object], default: str, statements: list[object]) -> None:
    whole = {"default-service-strategy": default, "services": services}
    assert policy.storage_statements(whole) == statements


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("true", "conditions on operation"),
        (f"{BUCKET} && {KEY}", "no operation named"),
        (f"operation == 'get-object' && {BUCKET}", "not limited"),
        (f"operation in {OBJECTS} && {KEY}", "one bucket"),
        (f"operation in {LISTINGS} && {BUCKET} && {KEY}", "listings only"),
        (f"operation in ['get-object', 'list-objects'] && {BUCKET} && {KEY} && {PREFIX}", "listings only"),
        (f"operation in {OBJECTS} && {BUCKET} && parameters.key.startsWith('*')", "wildcard"),
        (f"operation in {OBJECTS} && {BUCKET} && parameters.key.startsWith('${{aws:username}}')", "wildcard"),
        (f"operation == 'list-objects' && {BUCKET} && parameters.prefix.startsWith('t?')", "wildcard"),
        (f"operation in {OBJECTS} && parameters.bucket == 'b*' && {KEY}", "one bucket"),
        (f"operation == 'put-object-acl' && {BUCKET} && {KEY}", "put-object-acl"),
        (f"operation in {OBJECTS} && !({BUCKET})", "conditions on operation"),
        (f"operation in {OBJECTS} && {BUCKET} && {KEY} && source_ip == 'x'", "conditions on operation"),
        (f"operation in {OBJECTS} && {BUCKET} && parameters.bucket == 'b13'", "limited twice"),
    ],
)
def test_never_widened(text: str, reason: str) -> None:
    with pytest.raises(PolicyError, match="service sos") as refused:
        policy.check(rules(text))
    assert reason in str(refused.value)


def test_deny_is_refused() -> None:
    with pytest.raises(PolicyError, match="translates no deny"):
        policy.check(rules("true", action="deny"))


def test_exponential_policy() -> None:
    choice = "(parameters.key.startsWith('a') || parameters.key.startsWith('b'))"
    nested = " && ".join(f"({' && '.join([choice] * 5)})" for _ in range(20))
    with pytest.raises(PolicyError, match="more than 1000 alternatives"):
        policy.check(rules(nested))
