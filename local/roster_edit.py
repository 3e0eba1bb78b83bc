"""Edits `tenants.yaml` as text: only the lines of the entry that changes are written anew.

Comments, order, quotes and blank lines of everybody else stay to the byte, and a roster of 10,000 tenants is
edited as fast as it is read. Processes that edit it at once take turns (`exclusive`). What comes out is read
again before it replaces the file: either it says exactly what was meant, or nothing is written.
"""

import contextlib
import difflib
import fcntl
import io
import os
import re
import shutil
import tempfile
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from infra.errors import ConfigurationError
from infra.tenants.roster import TenantEntry, load_roster
from infra.tenants.roster_text import read_document
from local.errors import LocalError

_ORDER = [str(field.alias) for field in TenantEntry.model_fields.values()]
"""A key that is added goes where the model has it."""

Entry = CommentedMap


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Let one process at a time read and change the roster; the others wait.

    The folder is locked: each change replaces the file, and a file to lock would lie in the checkout.
    """
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


class RosterText:
    """The roster's lines, of which one entry at a time is changed; `save` writes them."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises `ConfigurationError` when it is no roster."""
        self.path = path
        self.roster = load_roster(path)
        self._positions = read_document(path).lines
        with path.open(encoding="utf-8-sig", newline="") as file:
            self._before = file.read()
        self._lines = self._before.splitlines(keepends=True)
        self._newline = "\r\n" if self._before.count("\r\n") == len(self._lines) > 0 else "\n"
        if self._lines and not self._lines[-1].endswith("\n"):
            self._lines[-1] += self._newline
        self._touched: set[str] = set()
        self._dash = _column(self._lines[self._span(0)[0]]) if self.roster.tenants else 2

    def entry(self, identifier: str) -> TenantEntry:
        """The tenant `identifier`; raises `LocalError` when there is none."""
        found = next((entry for entry in self.roster.tenants if entry.id == identifier), None)
        if found is None:
            close = difflib.get_close_matches(identifier, [entry.id for entry in self.roster.tenants], n=1)
            retired = " (it is retired)" if identifier in self.roster.retired else ""
            raise LocalError(
                f"There is no tenant {identifier!r} in {self.path.name}{retired}; nothing was changed."
                + (f" Did you mean {close[0]}?" if close else "")
            )
        return found

    def add(self, values: Mapping[str, Any]) -> None:
        """Add an entry: in its place where the ids are in alphabetical order, otherwise at the end."""
        ids = [entry.id for entry in self.roster.tenants]
        index = bisect(ids, values["id"]) if ids == sorted(ids) else len(ids)
        entry = CommentedMap()
        for key, value in values.items():
            put(entry, key, value)
        text = _dumped(CommentedMap(tenants=CommentedSeq([entry])), self._dash)
        block = text.replace("\n", self._newline).splitlines(keepends=True)[1:]
        if not ids:
            line = self._positions[("tenants",)] - 1
            self._lines[line] = re.sub(r"\[\s*\]", "", self._lines[line], count=1).rstrip() + self._newline
            self._lines[line + 1 : line + 1] = block
        elif index == 0:
            start, _ = self._span(0)
            self._lines[start:start] = [*block, *self._gap]
        else:
            _, end = self._span(index - 1)
            self._lines[end:end] = [*self._gap, *block]
        self._touched.add(values["id"])

    def change(self, identifier: str, edit: Callable[[Entry], None]) -> None:
        """Have `edit` change the entry of a tenant."""
        start, end = self._span(self._index(identifier))
        text = "".join(["tenants:\n", *self._lines[start:end]]).replace("\r\n", "\n")
        document = _yaml(self._dash).load(text)
        edit(document["tenants"][0])
        edited = _dumped(document, self._dash).replace("\n", self._newline)
        self._lines[start:end] = edited.splitlines(keepends=True)[1:]
        self._touched.add(identifier)

    def retire(self, identifier: str) -> None:
        """Drop the entry of a tenant and add its id to `retired`; from the bottom up, as lines count."""
        place = self._positions.get(("retired",))
        if place is None or place > self._positions[("tenants",)]:
            self._add_retired(identifier)
            self._drop(self._index(identifier))
        else:
            self._drop(self._index(identifier))
            self._add_retired(identifier)
        self._touched.add(identifier)

    def save(self) -> str:
        """Check the result, put it in the file's place at once, and return the change as a unified diff.

        Raises:
            ConfigurationError, LocalError: the result is no roster, or says more than was meant.
        """
        after = "".join(self._lines)
        # In a folder next to it, so that it has the file's name in messages and the file's file system.
        with tempfile.TemporaryDirectory(dir=self.path.parent, prefix=".roster-") as folder:
            written = Path(folder) / self.path.name
            with written.open("w", encoding="utf-8", newline="") as file:
                file.write(after)
                file.flush()
                os.fsync(file.fileno())
            try:
                result = load_roster(written)
            except ConfigurationError as error:
                raise LocalError(str(error).replace("The roster has", "The roster would have", 1)) from None
            untouched = [
                [entry for entry in tenants if entry.id not in self._touched]
                for tenants in (self.roster.tenants, result.tenants)
            ]
            if untouched[0] != untouched[1]:
                raise LocalError(
                    f"{self.path.name} is written in a way that cannot be edited without changing other "
                    "tenants; nothing was changed. Write one entry after the other, each with its own `- `."
                )
            shutil.copymode(self.path, written)
            written.replace(self.path)
        return "".join(
            difflib.unified_diff(
                self._before.splitlines(keepends=True),
                self._lines,
                f"a/{self.path.name}",
                f"b/{self.path.name}",
            )
        )

    def _index(self, identifier: str) -> int:
        return self.roster.tenants.index(self.entry(identifier))

    def _span(self, index: int) -> tuple[int, int]:
        """Where the entry's lines begin and end, without the comments and blank lines after it."""
        start = self._positions[("tenants", index)] - 1
        while not self._lines[start].lstrip().startswith("-") and start > 0:
            start -= 1
        own_line = index == 0 or self._positions[("tenants", index - 1)] - 1 < start
        if start < self._positions[("tenants",)] or not own_line:
            raise LocalError(
                f"{self.path.name}:{start + 1}: the tenants share a line, which cannot be edited for one of "
                "them; nothing was changed. Write one entry after the other, each starting with `- id:`."
            )
        column = _column(self._lines[start])
        end = start + 1
        for number in range(start + 1, len(self._lines)):
            line = self._lines[number]
            if line.strip() and not _is_comment(line):
                if _column(line) <= column:
                    break
                end = number + 1
        return start, end

    def _drop(self, index: int) -> None:
        """Remove the entry, the comment right above it and the blank line below."""
        start, end = self._span(index)
        while _is_comment(self._lines[start - 1]) and start > self._positions[("tenants",)]:
            start -= 1
        if end < len(self._lines) and not self._lines[end].strip():
            end += 1
        del self._lines[start:end]
        if len(self.roster.tenants) == 1:
            line = self._positions[("tenants",)] - 1
            self._lines[line] = self._lines[line].replace("tenants:", "tenants: []", 1)

    def _add_retired(self, identifier: str) -> None:
        place = self._positions.get(("retired",))
        if place is None:
            dash = " " * self._dash
            addition = ["retired:", f"{dash}- {identifier}"]
            self._lines += [line + self._newline for line in ["", *addition]]
            return
        start = place - 1
        end = start + 1
        while end < len(self._lines) and self._lines[end].startswith((" ", "-", "#")):
            end += 1
        text = "".join(self._lines[start:end]).replace("\r\n", "\n")
        document = _yaml(self._dash).load(text)
        document["retired"].append(identifier)
        edited = _dumped(document, self._dash).replace("\n", self._newline).splitlines(keepends=True)
        self._lines[start:end] = edited

    @property
    def _gap(self) -> Sequence[str]:
        """A blank line, where there is one between the entries."""
        if len(self.roster.tenants) > 1:
            _, end = self._span(0)
            return [self._newline] if not self._lines[end].strip() else []
        return [self._newline]


def put(mapping: CommentedMap, key: str, value: Any) -> None:
    """Set a key, a new one where the model has it; None removes it."""
    if value is None:
        mapping.pop(key, None)
    elif key in mapping or key not in _ORDER:
        mapping[key] = _plain(value)
    else:
        later = set(_ORDER[_ORDER.index(key) + 1 :])
        position = next((number for number, name in enumerate(mapping) if name in later), len(mapping))
        mapping.insert(position, key, _plain(value))


def _plain(value: Any) -> Any:
    """As it is written: a list on one line, a text in quotes where YAML takes it for something else."""
    if isinstance(value, Mapping):
        return CommentedMap({key: _plain(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        items = CommentedSeq([_plain(item) for item in value])
        items.fa.set_flow_style()
        return items
    if isinstance(value, str):
        try:
            understood = yaml.safe_load(value) == value
        except yaml.YAMLError:
            understood = False
        return value if understood else DoubleQuotedScalarString(value)
    return value


def _yaml(dash: int) -> YAML:
    parser = YAML()
    parser.preserve_quotes = True
    parser.width = 4096
    parser.indent(mapping=2, sequence=dash + 2, offset=dash)
    return parser


def _dumped(document: CommentedMap, dash: int) -> str:
    text = io.StringIO()
    _yaml(dash).dump(document, text)
    return text.getvalue()


def _column(line: str) -> int:
    return len(line) - len(line.lstrip())


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")
