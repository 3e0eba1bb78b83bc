"""The roster's text as plain values with the line of each; what cannot be read is told with its line.

The file is plain YAML of a few kinds: no anchors, aliases or tags, no characters that nobody sees, no numbers
that two readers of YAML take for different ones. So what a reviewer reads is what it says, and no file can
expand into more than it is. Reading takes time linear in its length.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

MAXIMUM_BYTES = 16 * 1024 * 1024
"""Far more than 10,000 tenants take."""
_MAXIMUM_DEPTH = 8

_CONFLICT = re.compile(r"^(<{7}|\|{7}|>{7})( |$)|^={7}$", re.MULTILINE)
_TAB = re.compile(r"^ *\t", re.MULTILINE)

UNSEEN = (
    # Controls and other spaces than the plain one.
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
    # What has no width, or turns the direction of what stands beside it.
    r"\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    r"\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff"
    # Surrogates, and what each font may show as it likes.
    r"\ud800-\uf8ff]"
)
"""Characters that a reviewer cannot see or tell from a space, as far as editors' regular expressions go.

They are what Unicode calls default ignorable code points, bidirectional formatting, and separators.
"""
_UNSEEN = re.compile(rf"{UNSEEN}|[\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U0010ffff]")

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")
"""A number that everybody reads alike: as JSON writes it, and without an exponent."""
_LIKE_A_NUMBER = re.compile(r"[-+]?(0o[0-7]+|\.?[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?)")
"""Text that YAML 1.2 takes for a number, though YAML 1.1 does not."""

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SCALARS = yaml.constructor.SafeConstructor()
_QUOTED = ("'", '"', "|", ">")
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
Position = tuple[int | str, ...]


class Mistake(NamedTuple):
    """What is wrong in a line, and in whose entry (empty: in nobody's)."""

    line: int
    tenant: str
    message: str


class UnreadableError(Exception):
    """The text cannot be read any further."""

    def __init__(self, *mistakes: Mistake) -> None:
        """Keep what is to be told."""
        super().__init__()
        self.mistakes = mistakes


@dataclass(frozen=True)
class Document:
    """What the file says, and where."""

    value: Any
    """Mappings, lists and scalars; None for a file that says nothing."""
    lines: dict[Position, int]
    doubles: list[tuple[Position, int, str]]
    """Keys that stand twice: where, in which line, and what to tell."""
    unclear: dict[Position, str]
    """Values that do not say to everybody what they say to this reader, and what to tell."""

    def line(self, position: Position) -> int:
        """The line of `position`, or of what it is missing from."""
        while position not in self.lines:
            if not position:
                return 1
            position = position[:-1]
        return self.lines[position]


def read_document(path: Path) -> Document:
    """Read the file.

    Raises:
        UnreadableError: with the reason, or the reasons.
    """
    document = Document(None, {}, [], {})
    root = _node(_text(path))
    return document if root is None else replace(document, value=_plain(root, (), document))


def _text(path: Path) -> str:
    """The file's text, once nothing in it makes reading it pointless."""
    try:
        with path.open("rb") as file:
            content = file.read(MAXIMUM_BYTES + 1)
    except OSError as error:
        raise _unreadable(
            1,
            f"cannot be read ({error.strerror}), so no tenant is known; "
            "check the setting agent-platform:roster",
        ) from None
    if len(content) > MAXIMUM_BYTES:
        raise _unreadable(
            1, f"is larger than {MAXIMUM_BYTES >> 20} MiB, which no roster is; restore it from git"
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _unreadable(
            line, "is not UTF-8 text, so names would be garbled; save the file as UTF-8"
        ) from None
    conflicts = [
        Mistake(
            _line_of(text, match), "", "a merge conflict was left in; keep one side and delete the markers"
        )
        for match in _CONFLICT.finditer(text)
    ]
    tabs = [
        Mistake(_line_of(text, match), "", "a tab indents this line, which YAML does not allow; use spaces")
        for match in _TAB.finditer(text)
    ]
    unseen = [Mistake(number, "", message) for number, message in _unseen_in_lines(text)]
    if conflicts or tabs or unseen:
        raise UnreadableError(*conflicts, *tabs, *unseen)
    return text


def _unseen_in_lines(text: str) -> Iterator[tuple[int, str]]:
    """Find the first character in each line that nobody sees, in comments too."""
    if _UNSEEN.search(text):
        for number, line in enumerate(text.split("\n"), start=1):
            if found := _UNSEEN.search(line):
                yield number, _unseen(found[0])


def _unseen(character: str) -> str:
    name = unicodedata.name(character, "no name")
    return (
        f"U+{ord(character):04X} ({name}) cannot be seen, or not be told from a space, so the line would say "
        "something else than a reviewer reads; delete it, or write a plain space"
    )


def _unreadable(line: int, message: str) -> UnreadableError:
    return UnreadableError(Mistake(line, "", message))


def _line_of(text: str, match: re.Match[str]) -> int:
    return text.count("\n", 0, match.start()) + 1


def _node(text: str) -> yaml.Node | None:
    """The document's tree, once it is known to hold nothing that expands or runs."""
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            line = event.start_mark.line + 1 if event.start_mark else 1
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise _unreadable(
                    line,
                    "anchors and aliases (& and *) are refused: what they expand to cannot be reviewed, and "
                    "may be without end; write the value out, or put one that starts with * or & in quotes",
                )
            if tag := getattr(event, "tag", None):
                raise _unreadable(line, f"the tag {tag} is refused: the roster holds plain text; remove it")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAXIMUM_DEPTH:
                raise _unreadable(
                    line, "is nested deeper than any roster, so nothing could be read; unnest it"
                )
        node: yaml.Node | None = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _unreadable(
            1 if mark is None else mark.line + 1,
            f"is not valid YAML ({error.problem or error.context}), so nothing could be read; mend this line "
            "or the one above it",
        ) from None
    except yaml.YAMLError as error:
        raise _unreadable(
            1, f"is not valid YAML ({error}), so nothing could be read; restore it from git"
        ) from None
    return node


def _plain(node: yaml.Node, position: Position, document: Document) -> Any:
    """The node as a plain value; its line, and those of all below it, go into `document`."""
    lines = document.lines
    lines[position] = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*position, index), document) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
            below = (*position, key)
            if key in mapping:
                message = (
                    f"`{key}` stands in line {lines[below]} already, so one of the two would be ignored "
                    "without a word; keep one"
                )
                document.doubles.append((below, key_node.start_mark.line + 1, message))
                continue
            mapping[key] = _plain(value_node, below, document)
            lines[below] = key_node.start_mark.line + 1
        return mapping
    if isinstance(node, yaml.ScalarNode) and (unclear := _ambiguous(node)):
        document.unclear[position] = unclear
    if node.tag == "tag:yaml.org,2002:str":
        return node.value
    try:
        return _SCALARS.construct_object(node)
    except (ValueError, yaml.YAMLError):
        # A date that no calendar has, or `=`: text, then, for validation to judge.
        return node.value
    finally:
        # It remembers each node, for aliases that there are none of.
        _SCALARS.constructed_objects.clear()


def _ambiguous(node: yaml.ScalarNode) -> str | None:
    """Return what is told of a scalar that does not say to everybody what it says to this reader."""
    if found := _UNSEEN.search(node.value):
        return _unseen(found[0])
    # In quotes it is text for everybody.
    if node.style in _QUOTED or _NUMBER.fullmatch(node.value):
        return None
    if node.tag not in _NUMBERS and not _LIKE_A_NUMBER.fullmatch(node.value):
        return None
    return (
        f"{node.value} is one number for some readers of YAML, and another one or text for others, so nobody "
        "could say what is meant; write a number in decimal digits without a leading zero, and text in quotes"
    )
