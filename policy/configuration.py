"""The stack's policy configuration: `policy/config.STACK.json`, in Pulumi's own format.

    {"pods-seccomp": "advisory", "pods-no-host-path": {"allowed": {"NAME OF A RESOURCE": "the reason why"}}}

The engine checks values against each rule's JSON schema. What nobody knows, a rule or a
setting, it lets pass, and the guard that somebody meant to set would not be there; so it is refused here.
"""

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from policy.rules import ALLOWED, Level, Rule

LEVEL = "enforcementLevel"
ALL = "all"
"""Stands for every rule."""


@dataclass(frozen=True)
class Configured:
    """A rule as the stack has it."""

    rule: Rule
    level: Level
    values: Mapping[str, Any] = field(default_factory=dict)


class PolicyConfigurationError(Exception):
    """What is wrong with the configuration, in one message."""


def check_file(path: Path, rules: Mapping[str, Rule]) -> None:
    """Refuse a file that does not say what somebody meant.

    Raises:
        PolicyConfigurationError: naming every mistake in it.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise PolicyConfigurationError(
            f"{path.name} is no JSON ({error}), so no rule would be in force; nothing was changed. Mend it."
        ) from None
    mistakes = list(_mistakes(document, rules))
    if mistakes:
        raise PolicyConfigurationError(
            "\n".join(
                [f"{path.name} has mistakes; nothing was changed.", *(f"  - {item}" for item in mistakes)]
            )
        )


def _mistakes(document: Any, rules: Mapping[str, Rule]) -> Iterator[str]:
    if not isinstance(document, dict):
        yield "it is no mapping of rules; write {} for the rules as they are"
        return
    for name, written in document.items():
        yield from check_entry(name, written, rules)


def check_entry(name: str, written: Any, rules: Mapping[str, Rule]) -> Iterator[str]:
    """What is wrong with what was written for one rule."""
    if name != ALL and name not in rules:
        close = difflib.get_close_matches(name, rules, n=1)
        hint = f"did you mean {close[0]}?" if close else "docs/policies.md lists them"
        yield f"{name}: is no rule, so nothing would be guarded by it; {hint}"
        return
    entry = {LEVEL: written} if isinstance(written, str) else written
    if not isinstance(entry, dict):
        yield f"{name}: is neither a level nor a mapping; write one of {_levels()}, or the rule's settings"
        return
    level = entry.get(LEVEL)
    if level is not None and level not in {known.value for known in Level}:
        yield f"{name}: {level!r} is no level, so the rule would not be in force; write one of {_levels()}"
    known = () if name == ALL else (*ALLOWED, *rules[name].settings)
    for setting in entry:
        if setting != LEVEL and setting not in known:
            yield f"{name}.{setting}: is no setting of this rule; it has {', '.join(known)}"


def _levels() -> str:
    return ", ".join(level.value for level in Level)
