"""IAM policies: what a role may do in the API, and what that means for the S3 server.

The policy language is the one of Exoscale's "Write IAM Policies": services by name, each `allow`, `deny` or
`rules`; the first rule whose expression holds decides; a rule that asks for a binding the request does not
have does not apply; if no rule holds the request is refused, whatever `default-service-strategy` says.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice, product
from typing import Any

from local.exoscale import expression
from local.exoscale.expression import Call, Compare, ExpressionError, Items, Join, Literal, Name, Node

Policy = dict[str, Any]
Statement = dict[str, Any]
"""Of an S3 policy: `{"Effect": "Allow", "Action": […], "Resource": […], "Condition": {…}}`."""

# How the S3 server knows an operation: by the request's method and the words of S3's own policies. It has
# the same words for an object and its head, and takes whoever may put an object for one who may do every step
# of a multipart upload; the method tells these apart.
_OBJECT_OPERATIONS = {
    "get-object": ("GET", ["s3:GetObject", "s3:GetObjectVersion"]),
    "head-object": ("HEAD", ["s3:GetObject", "s3:GetObjectVersion"]),
    "put-object": ("PUT", ["s3:PutObject"]),
    "delete-object": ("DELETE", ["s3:DeleteObject", "s3:DeleteObjectVersion"]),
    "create-multipart-upload": ("POST", ["s3:CreateMultipartUpload"]),
    "upload-part": ("PUT", ["s3:UploadPart", "s3:UploadPartCopy"]),
    "complete-multipart-upload": ("POST", ["s3:CompleteMultipartUpload"]),
    "abort-multipart-upload": ("DELETE", ["s3:AbortMultipartUpload"]),
    "list-parts": ("GET", ["s3:ListMultipartUploadParts"]),
}
_LIST_OPERATIONS = {
    "list-objects": ("GET", ["s3:ListBucket"]),
    "list-object-versions": ("GET", ["s3:ListBucketVersions"]),
    "list-multipart-uploads": ("GET", ["s3:ListBucketMultipartUploads"]),
}
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_WILD = "*?$"
"""`*` and `?` stand for other characters in an S3 policy, `$` begins a variable."""
_MOST_ALTERNATIVES = 1000


class PolicyError(Exception):
    """The policy is malformed, or says what the S3 server cannot enforce to the letter."""


def check(policy: Policy) -> None:
    """Raise `PolicyError` for a malformed expression, or a policy without exact meaning for the S3 server."""
    for name, service in policy["services"].items():
        for number, rule in enumerate(service.get("rules", []), start=1):
            try:
                expression.parse(rule.get("expression", ""))
            except ExpressionError as error:
                raise PolicyError(f"service {name}, rule {number}: {error}") from None
    storage_statements(policy)


def allows(policy: Policy, service: str, bindings: Mapping[str, object]) -> bool:
    """Whether a request with these bindings may pass."""
    rules = policy["services"].get(service)
    if rules is None:
        return bool(policy["default-service-strategy"] == "allow")
    if rules.get("type") != "rules":
        return bool(rules.get("type") == "allow")
    for rule in rules.get("rules", []):
        try:
            if expression.evaluate(expression.parse(rule["expression"]), bindings) is True:
                return bool(rule["action"] == "allow")
        except expression.Absent:
            continue
    return False


def storage_statements(policy: Policy) -> list[Statement]:
    """The same limits as statements of an S3 policy; empty: no access at all.

    Raises `PolicyError` where there are no such statements: a limit is never widened to make it fit.
    """
    service = policy["services"].get("sos")
    if service is None:
        return _everything() if policy["default-service-strategy"] == "allow" else []
    if service.get("type") != "rules":
        return _everything() if service.get("type") == "allow" else []
    granted: set[tuple[str, str, str]] = set()
    for number, rule in enumerate(service.get("rules", []), start=1):
        where = f"service sos, rule {number}"
        if rule.get("action") != "allow":
            raise PolicyError(
                f"{where}: the emulator translates no deny; write what is allowed, all else is refused"
            )
        try:
            for alternative in _bounded(_alternatives(expression.parse(rule["expression"]))):
                grant = _Grant.of(alternative)
                granted |= {(operation, grant.bucket, grant.prefix) for operation in grant.operations}
        except PolicyError as error:
            raise PolicyError(f"{where}: {error}") from None
    return [*(_allow(*each) for each in sorted(granted)), _deny_parts(granted)] if granted else []


def _everything() -> list[Statement]:
    return [{"Effect": "Allow", "Action": ["s3:*"], "Resource": [_arn("*")]}]


def _allow(operation: str, bucket: str, prefix: str) -> Statement:
    """Allow one operation below one prefix."""
    method, actions = (_OBJECT_OPERATIONS | _LIST_OPERATIONS)[operation]
    by_method = {"StringEquals": {"s3:RequestMethod": method}}
    if operation in _OBJECT_OPERATIONS:
        resource, condition = _arn(f"{bucket}/{prefix}*"), by_method
    else:
        # A listing is of the bucket; it is confined by the prefix that it asks for.
        resource, condition = _arn(bucket), by_method | {"StringLike": {"s3:prefix": f"{prefix}*"}}
    return {"Effect": "Allow", "Action": actions, "Resource": [resource], "Condition": condition}


def _deny_parts(granted: Iterable[tuple[str, str, str]]) -> Statement:
    """Deny `upload-part` where it is not granted: for the server `put-object`, of the same method, has it."""
    places = sorted(
        _arn(f"{bucket}/{prefix}*") for operation, bucket, prefix in granted if operation == "upload-part"
    )
    where = {"NotResource": places} if places else {"Resource": [_arn("*")]}
    return {"Effect": "Deny", "Action": _OBJECT_OPERATIONS["upload-part"][1], **where}


def _arn(pattern: str) -> str:
    return f"arn:aws:s3:::{pattern}"


def _alternatives(node: Node) -> Iterator[tuple[Node, ...]]:
    """The disjunctive form: one tuple of conditions per way to fulfil the expression."""
    match node:
        case Join("||", operands):
            for operand in operands:
                yield from _alternatives(operand)
        case Join("&&", operands):
            for combination in product(*(_bounded(_alternatives(operand)) for operand in operands)):
                yield tuple(condition for conditions in combination for condition in conditions)
        case _:
            yield (node,)


def _bounded(alternatives: Iterator[tuple[Node, ...]]) -> list[tuple[Node, ...]]:
    # Their number grows exponentially with the length of the expression.
    first = list(islice(alternatives, _MOST_ALTERNATIVES + 1))
    if len(first) > _MOST_ALTERNATIVES:
        raise PolicyError(f"more than {_MOST_ALTERNATIVES} alternatives")
    return first


@dataclass
class _Grant:
    """One alternative of a rule, understood."""

    operations: frozenset[str] = frozenset()
    values: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, conditions: tuple[Node, ...]) -> "_Grant":
        grant = cls()
        for condition in conditions:
            grant._add(condition)
        grant._complete()
        return grant

    @property
    def bucket(self) -> str:
        """The one bucket that it is limited to."""
        return self.values["bucket"]

    @property
    def prefix(self) -> str:
        """The beginning of keys, or of the prefixes of listings."""
        return self.values["key"] if "key" in self.values else self.values["prefix"]

    def _add(self, condition: Node) -> None:
        match condition:
            case Compare("==", Name(("operation",)), Literal(str(operation))):
                self._narrow(frozenset({operation}))
            case Compare("in", Name(("operation",)), Items(items)) if all(
                isinstance(item, Literal) and isinstance(item.value, str) for item in items
            ):
                self._narrow(frozenset(str(item.value) for item in items if isinstance(item, Literal)))
            case Compare("==", Name(("parameters", "bucket")), Literal(str(bucket))):
                self._set("bucket", bucket)
            case Call(Name(("parameters", ("key" | "prefix") as name)), "startsWith", Literal(str(prefix))):
                self._set(name, prefix)
            case _:
                raise PolicyError(
                    "the S3 server knows conditions on operation, parameters.bucket == '…' and "
                    "parameters.key or parameters.prefix .startsWith('…') only"
                )

    def _narrow(self, operations: frozenset[str]) -> None:
        self.operations = self.operations & operations if self.operations else operations

    def _set(self, name: str, value: str) -> None:
        if self.values.setdefault(name, value) != value:
            raise PolicyError(f"parameters.{name} is limited twice")

    def _complete(self) -> None:
        if not self.operations:
            raise PolicyError("no operation named, and the S3 server has no word for all of them at once")
        if unknown := sorted(self.operations - _OBJECT_OPERATIONS.keys() - _LIST_OPERATIONS.keys()):
            raise PolicyError(f"the S3 server has no permission of its own for {', '.join(unknown)}")
        if not _BUCKET.fullmatch(self.values.get("bucket", "")):
            raise PolicyError("parameters.bucket is not limited to one bucket")
        # Listings have a prefix and no key, objects a key and no prefix: any other mixture never applies.
        of_objects = self.operations <= _OBJECT_OPERATIONS.keys() and "prefix" not in self.values
        of_listings = self.operations <= _LIST_OPERATIONS.keys() and "key" not in self.values
        if not of_objects and not of_listings:
            raise PolicyError(
                "parameters.key goes with object operations only, parameters.prefix with listings only"
            )
        if not {"key", "prefix"} & self.values.keys():
            raise PolicyError("parameters.key or parameters.prefix is not limited")
        for name in ("key", "prefix"):
            if set(self.values.get(name, "")) & set(_WILD):
                raise PolicyError(
                    f"parameters.{name} holds one of {_WILD}, which the S3 server would read as a wildcard"
                )
