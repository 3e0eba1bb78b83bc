"""The part of the Common Expression Language that IAM rules use: parsed here, evaluated here.

Names (`operation`, `parameters.bucket`), strings, integers, `true`, `false`, `null`, lists, `==`, `!=`, `in`,
`!`, `&&`, `||`, parentheses, and the methods `startsWith`, `endsWith`, `contains` and `has`. Anything else is
refused when the rule is written, so that no rule means less here than on the real service.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass


class ExpressionError(Exception):
    """The text is no expression of this part of the language."""


class Absent(Exception):  # noqa: N818 - a value of evaluation rather than a fault
    """The expression asks for something that this request does not have: the rule does not apply."""


@dataclass(frozen=True)
class Literal:
    """A string, integer, boolean or null."""

    value: str | int | bool | None


@dataclass(frozen=True)
class Name:
    """A binding, such as `parameters.bucket`."""

    path: tuple[str, ...]


@dataclass(frozen=True)
class Items:
    """A list."""

    items: tuple["Node", ...]


@dataclass(frozen=True)
class Call:
    """A method of a value, with its one argument."""

    target: "Node"
    method: str
    argument: "Node"


@dataclass(frozen=True)
class Compare:
    """`==`, `!=` or `in`."""

    operator: str
    left: "Node"
    right: "Node"


@dataclass(frozen=True)
class Not:
    """Negation."""

    operand: "Node"


@dataclass(frozen=True)
class Join:
    """`&&` or `||` over two or more operands."""

    operator: str
    operands: tuple["Node", ...]


Node = Literal | Name | Items | Call | Compare | Not | Join

_TOKEN = re.compile(
    r"""\s*(?:(?P<string>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")|(?P<number>-?\d+)|(?P<word>[A-Za-z_]\w*)
    |(?P<sign>&&|\|\||==|!=|[!()\[\],.]))""",
    re.VERBOSE,
)
_METHODS: Mapping[str, Callable[[str, str], bool]] = {
    "startsWith": str.startswith,
    "endsWith": str.endswith,
    "contains": str.__contains__,
}
_WORDS = {"true": True, "false": False, "null": None}
_DEPTH = 50


def parse(text: str) -> Node:
    """The expression's tree. Raises `ExpressionError` with the place."""
    return _Parser(text).parse()


def evaluate(node: Node, bindings: Mapping[str, object]) -> object:
    """The expression's value. Raises `Absent` where a binding is missing or of another type."""
    match node:
        case Literal(value):
            return value
        case Items(items):
            return [evaluate(item, bindings) for item in items]
        case Name(path):
            return _lookup(path, bindings)
        case Not(operand):
            return not _boolean(evaluate(operand, bindings))
        case Compare(operator, left, right):
            return _compare(operator, evaluate(left, bindings), evaluate(right, bindings))
        case Call(target, method, argument):
            return _call(evaluate(target, bindings), method, evaluate(argument, bindings))
        case Join(operator, operands):
            return _join(operator, operands, bindings)


def _lookup(path: tuple[str, ...], bindings: Mapping[str, object]) -> object:
    value: object = bindings
    for part in path:
        if not isinstance(value, Mapping) or part not in value:
            raise Absent(".".join(path))
        value = value[part]
    return value


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise Absent("no boolean")
    return value


def _compare(operator: str, left: object, right: object) -> bool:
    if operator == "in":
        if not isinstance(right, list | Mapping):
            raise Absent("in: no list")
        return left in right
    return (left == right) is (operator == "==")


def _call(target: object, method: str, argument: object) -> bool:
    if method == "has":
        if not isinstance(target, Mapping):
            raise Absent("has: no map")
        return argument in target
    if not isinstance(target, str) or not isinstance(argument, str):
        raise Absent(f"{method}: no string")
    return _METHODS[method](target, argument)


def _join(operator: str, operands: tuple[Node, ...], bindings: Mapping[str, object]) -> bool:
    # As the language has it, a decisive operand wins over one that cannot be evaluated, in either order.
    decisive, missing = operator == "||", None
    for operand in operands:
        try:
            if _boolean(evaluate(operand, bindings)) is decisive:
                return decisive
        except Absent as absent:
            missing = absent
    if missing is not None:
        raise missing
    return not decisive


class _Parser:
    """Recursive descent, loosest binding first."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _tokens(text)
        self._at = 0
        self._depth = 0

    def parse(self) -> Node:
        node = self._chain("||", lambda: self._chain("&&", self._relation))
        if self._at < len(self._tokens):
            raise self._error()
        return node

    def _chain(self, operator: str, operand: Callable[[], Node]) -> Node:
        operands = [operand()]
        while self._accept(operator):
            operands.append(operand())
        return operands[0] if len(operands) == 1 else Join(operator, tuple(operands))

    def _relation(self) -> Node:
        left = self._unary()
        for operator in ("==", "!=", "in"):
            if self._accept(operator):
                return Compare(operator, left, self._unary())
        return left

    def _unary(self) -> Node:
        self._depth += 1
        if self._depth > _DEPTH:
            raise ExpressionError(f"nested more than {_DEPTH} deep")
        node = Not(self._unary()) if self._accept("!") else self._member()
        self._depth -= 1
        return node

    def _member(self) -> Node:
        node = self._primary()
        while self._accept("."):
            word = self._take("word")
            if self._accept("("):
                node = self._method(node, word)
            elif isinstance(node, Name):
                node = Name((*node.path, word))
            else:
                raise self._error()
        return node

    def _method(self, target: Node, method: str) -> Node:
        if method not in _METHODS and method != "has":
            raise ExpressionError(f"method {method} is not known here")
        argument = self._chain("||", lambda: self._chain("&&", self._relation))
        self._expect(")")
        return Call(target, method, argument)

    def _primary(self) -> Node:
        if self._accept("("):
            node = self._chain("||", lambda: self._chain("&&", self._relation))
            self._expect(")")
            return node
        if self._accept("["):
            items: list[Node] = []
            while not self._accept("]"):
                if items:
                    self._expect(",")
                items.append(self._unary())
            return Items(tuple(items))
        kind, text = self._tokens[self._at][:2] if self._at < len(self._tokens) else ("end", "")
        self._at += 1
        if kind == "string":
            return Literal(re.sub(r"\\(.)", r"\1", text[1:-1]))
        if kind == "number":
            return Literal(int(text))
        if kind == "word":
            return Literal(_WORDS[text]) if text in _WORDS else Name((text,))
        self._at -= 1
        raise self._error()

    def _accept(self, text: str) -> bool:
        if self._at < len(self._tokens):
            kind, found, _ = self._tokens[self._at]
            if found == text and kind != "string":
                self._at += 1
                return True
        return False

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            raise self._error()

    def _take(self, kind: str) -> str:
        if self._at < len(self._tokens) and self._tokens[self._at][0] == kind:
            self._at += 1
            return self._tokens[self._at - 1][1]
        raise self._error()

    def _error(self) -> ExpressionError:
        where = self._tokens[self._at][2] if self._at < len(self._tokens) else len(self._text)
        return ExpressionError(
            f"not understood from character {where + 1} on: {self._text[where : where + 30]!r}"
        )


def _tokens(text: str) -> list[tuple[str, str, int]]:
    tokens, at = [], 0
    while at < len(text.rstrip()):
        if (match := _TOKEN.match(text, at)) is None or match.lastgroup is None:
            raise ExpressionError(f"not understood from character {at + 1} on: {text[at : at + 30]!r}")
        tokens.append((match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)))
        at = match.end()
    return tokens
