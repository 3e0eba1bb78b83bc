"""IAM policies: what a role may do in the API, and what that means for the S3 server.

The policy language is the one of Exoscale's "Write IAM Policies": services by name, each `allow`, `deny` or
`rules`; the first rule whose expression holds decides; a rule that asks for a binding the request does not
have does not apply; if no rule holds the request is refused, whatever `default-service-strategy` says.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice, product
from typing import Any

from local.exoscale import expression
from local.exoscale.expression import Call, Compare, ExpressionError, Items, Join, Literal, Name, Node

Policy = dict[str, Any]

# What one permission of the S3 server covers. A role gets all operations of a line or none of them: the
# server cannot tell them apart.
_GRANTS = {
    "Read": frozenset({"get-object", "head-object"}),
    "Write": frozenset(
        {
            "put-object",
            "delete-object",
            "create-multipart-upload",
            "upload-part",
            "complete-multipart-upload",
            "abort-multipart-upload",
            "list-parts",
        }
    ),
    "List": frozenset({"list-objects", "list-object-versions", "list-multipart-uploads"}),
}
_OBJECT_OPERATIONS = _GRANTS["Read"] | _GRANTS["Write"]
_LIST_OPERATIONS = _GRANTS["List"]
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_EVERYTHING = ("Admin",)
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
    storage_actions(policy)


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


def storage_actions(policy: Policy) -> tuple[str, ...]:
    """The same limits in the S3 server's words (`Read:artifacts/tenant_acme/*`); empty: no access at all.

    Raises `PolicyError` where there are no such words: a limit is never widened to make it fit.
    """
    service = policy["services"].get("sos")
    if service is None:
        return _EVERYTHING if policy["default-service-strategy"] == "allow" else ()
    if service.get("type") != "rules":
        return _EVERYTHING if service.get("type") == "allow" else ()
    granted: dict[str, set[str]] = {}
    for number, rule in enumerate(service.get("rules", []), start=1):
        where = f"service sos, rule {number}"
        if rule.get("action") != "allow":
            raise PolicyError(
                f"{where}: the S3 server knows no deny; write what is allowed, all else is refused"
            )
        try:
            for alternative in _bounded(_alternatives(expression.parse(rule["expression"]))):
                grant = _Grant.of(alternative)
                granted.setdefault(grant.scope, set()).update(grant.operations)
        except PolicyError as error:
            raise PolicyError(f"{where}: {error}") from None
    return tuple(_actions(granted))


def _actions(granted: Mapping[str, set[str]]) -> Iterator[str]:
    for scope, operations in sorted(granted.items()):
        for action, covered in _GRANTS.items():
            if part := covered & operations:
                if missing := sorted(covered - part):
                    raise PolicyError(
                        f"service sos: on {scope} the S3 server cannot allow {', '.join(sorted(part))} "
                        f"without {', '.join(missing)}; name all of them or none"
                    )
                yield f"{action}:{scope}"


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
    def scope(self) -> str:
        """`bucket/prefix*` in the S3 server's words."""
        prefix = self.values.get("key", self.values.get("prefix"))
        return f"{self.values['bucket']}/{prefix}*"

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
        if unknown := sorted(self.operations - _OBJECT_OPERATIONS - _LIST_OPERATIONS):
            raise PolicyError(f"the S3 server has no permission of its own for {', '.join(unknown)}")
        if not _BUCKET.fullmatch(self.values.get("bucket", "")):
            raise PolicyError("parameters.bucket is not limited to one bucket")
        # Listings have a prefix and no key, objects a key and no prefix: any other mixture never applies.
        of_objects = self.operations <= _OBJECT_OPERATIONS and "prefix" not in self.values
        of_listings = self.operations <= _LIST_OPERATIONS and "key" not in self.values
        if not of_objects and not of_listings:
            raise PolicyError(
                "parameters.key goes with object operations only, parameters.prefix with listings only"
            )
        if not {"key", "prefix"} & self.values.keys():
            raise PolicyError("parameters.key or parameters.prefix is not limited")
        for name in ("key", "prefix"):
            if set(self.values.get(name, "")) & set("*?"):
                raise PolicyError(
                    f"parameters.{name} holds * or ?, which the S3 server would read as a wildcard"
                )
